"""What commands on runs take and answer."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.api.serializers.runs import run_url
from orchestrator.services.bulk import MOST, Bulk, Outcome


class RunFilterCall(serializers.Serializer):
    """Which runs: the filters of the list of runs; at least one."""

    job = serializers.CharField(required=False)
    tag = serializers.CharField(required=False)
    state = serializers.JSONField(required=False, help_text="One state, or a list.")
    trigger = serializers.CharField(required=False)
    created_from = serializers.DateTimeField(required=False)
    created_to = serializers.DateTimeField(required=False)
    rerun_of = serializers.IntegerField(required=False)


class RerunCall(serializers.Serializer):
    """From where a run is run again, and which tasks are marked instead."""

    mark = serializers.DictField(
        child=serializers.ChoiceField(["succeeded", "skipped"]), required=False, help_text="Task → how it ends unrun."
    )
    reason = serializers.CharField(required=False, max_length=500)

    def get_fields(self) -> dict[str, serializers.Field]:
        # `from` is a keyword of Python, so it cannot be written as an attribute.
        start = serializers.JSONField(
            required=False, help_text="`start`, `failed` (default), or a list of tasks; each with all downstream of it."
        )
        return {"from": start, **super().get_fields()}


class BulkCancelCall(serializers.Serializer):
    """Which runs to cancel, and why."""

    filter = RunFilterCall()
    dry_run = serializers.BooleanField(required=False, default=False, help_text="Count and say what would happen.")
    reason = serializers.CharField(required=False, max_length=500)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=MOST)


class BulkRerunCall(RerunCall):
    """Which runs to run again, from where, and why. Without a state: those that failed or timed out."""

    filter = RunFilterCall()
    dry_run = serializers.BooleanField(required=False, default=False, help_text="Count and say what would happen.")
    again = serializers.BooleanField(required=False, default=False, help_text="Also runs that have a re-run already.")
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=MOST)
    cursor = serializers.CharField(required=False, allow_null=True, help_text="`next` of the call before.")


class OutcomeAnswer(serializers.Serializer):
    """What became of one run."""

    run = serializers.IntegerField()
    url = serializers.CharField()
    job = serializers.CharField()
    state = serializers.CharField()
    outcome = serializers.CharField(help_text="cancelled, stopping, rerun, refused, would_cancel, would_rerun")
    code = serializers.CharField(help_text="Of a refusal.")
    message = serializers.CharField()
    new_run = serializers.IntegerField(allow_null=True)


class BulkAnswer(serializers.Serializer):
    """What a command on many runs did, or with `dry_run` would do."""

    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="Runs that the filter chose before this call.")
    matched_by_state = serializers.DictField(child=serializers.IntegerField())
    is_capped = serializers.BooleanField(help_text="There are more than were counted.")
    done = serializers.IntegerField()
    refused = serializers.IntegerField()
    remaining = serializers.IntegerField(help_text="Left for the next call.")
    items = OutcomeAnswer(many=True)
    next = serializers.CharField(allow_null=True, help_text="`cursor` of the next call, which steps over refusals.")


def bulk_answer(bulk: Bulk, base_url: str, *, dry_run: bool) -> dict[str, Any]:
    refused = sum(one.outcome == "refused" for one in bulk.outcomes)
    return {
        "dry_run": dry_run,
        "matched": sum(bulk.matched.values()),
        "matched_by_state": dict(sorted(bulk.matched.items())),
        "is_capped": bulk.is_capped,
        "done": 0 if dry_run else len(bulk.outcomes) - refused,
        "refused": refused,
        "remaining": bulk.remaining,
        "items": [_outcome_answer(one, base_url) for one in bulk.outcomes],
        "next": None if bulk.next is None else str(bulk.next),
    }


def _outcome_answer(one: Outcome, base_url: str) -> dict[str, Any]:
    return {
        "run": one.run.pk,
        "url": run_url(one.run.pk, base_url),
        "job": one.run.job.name,
        "state": one.run.state,
        "outcome": one.outcome,
        "code": one.code,
        "message": one.message,
        "new_run": one.new_run and one.new_run.pk,
    }
