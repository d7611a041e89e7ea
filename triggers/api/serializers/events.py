"""How events, firings, dead letters and replays look."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from rest_framework import serializers

from orchestrator.api.bases import run_url
from orchestrator.models import JobRun
from triggers.models import DeadLetter, Event, Replay
from triggers.selectors.dead_letters import SHOWN_BYTES
from triggers.selectors.events import ShownEvent
from triggers.selectors.firings import ShownFiring


class EnvelopeAnswer(serializers.Serializer):
    """An event in canonical form."""

    messageId = serializers.CharField()
    eventType = serializers.CharField()
    timestamp = serializers.DateTimeField()
    destination = serializers.CharField()
    priority = serializers.CharField()
    payload = serializers.DictField()
    metadata = serializers.DictField()

    def get_fields(self) -> dict[str, serializers.Field]:
        # `source` is a word of REST framework, so it cannot be written as an attribute.
        return {**super().get_fields(), "source": serializers.CharField()}


class FiringOfEventAnswer(serializers.Serializer):
    """What became of a rule on an event, in short."""

    id = serializers.IntegerField()
    rule = serializers.CharField()
    rule_id = serializers.IntegerField()
    rule_version = serializers.IntegerField()
    replay_no = serializers.IntegerField()
    outcome = serializers.CharField()
    reason = serializers.CharField()
    run_id = serializers.IntegerField(allow_null=True)


class NotFiredAnswer(serializers.Serializer):
    """A version of a rule whose condition was false."""

    rule = serializers.CharField()
    rule_id = serializers.IntegerField()
    rule_version = serializers.IntegerField()


class EventAnswer(serializers.Serializer):
    """An event and what rules made of it."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    envelope = EnvelopeAnswer()
    received_at = serializers.DateTimeField()
    channel = serializers.CharField()
    state = serializers.CharField(help_text="received, matched, no_match or expired.")
    depth = serializers.IntegerField(help_text="Runs and events that it descends from.")
    firings = FiringOfEventAnswer(many=True)
    not_fired = NotFiredAnswer(many=True)


class RunOfEventAnswer(serializers.Serializer):
    """A run that an event started."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    job = serializers.CharField()
    state = serializers.CharField()
    reason = serializers.CharField()


class EventDetailAnswer(EventAnswer):
    """An event with where it came in and the runs that it started."""

    part = serializers.CharField(help_text="topic/partition, or the queue.")
    offset = serializers.IntegerField(allow_null=True)
    ordering_key = serializers.CharField()
    headers = serializers.DictField()
    runs = RunOfEventAnswer(many=True)


class FiringAnswer(FiringOfEventAnswer):
    """The recorded outcome of a rule on an event."""

    event_id = serializers.IntegerField()
    event_url = serializers.CharField()
    run_url = serializers.CharField(allow_null=True)
    stage = serializers.CharField(help_text="Of a held one: what holds it.")
    release_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class DeadLetterAnswer(serializers.Serializer):
    """A message that could not be used."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    event_source = serializers.CharField(allow_null=True)
    channel = serializers.CharField()
    part = serializers.CharField()
    offset = serializers.IntegerField(allow_null=True)
    message_id = serializers.CharField()
    reason = serializers.CharField()
    error = serializers.CharField()
    raw_base64 = serializers.CharField(help_text="In a list at most the first 16 KiB of the message.")
    raw_size = serializers.IntegerField(help_text="Bytes of the whole message.")
    headers = serializers.DictField()
    tries = serializers.IntegerField()
    state = serializers.CharField(help_text="open, replayed or discarded.")
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)
    resolved_by = serializers.CharField()
    event_id = serializers.IntegerField(allow_null=True, help_text="What a replay made of it.")


class ReplaySelectionCall(serializers.Serializer):
    """Events by what a list of them is filtered by."""

    type = serializers.CharField(required=False, help_text="A type; one that ends with * stands for all that begin so.")
    state = serializers.CharField(required=False)
    to = serializers.DateTimeField(required=False, help_text="Received before this moment.")

    def get_fields(self) -> dict[str, serializers.Field]:
        return {
            **super().get_fields(),
            "source": serializers.CharField(required=False),
            "from": serializers.DateTimeField(required=False, help_text="Not received before this moment."),
        }


class ReplayCall(serializers.Serializer):
    """What to give to the rules once more: one of events, filter, from and to, dead_letters."""

    events = serializers.ListField(child=serializers.IntegerField(), required=False, help_text="Ids, at most 10,000.")
    filter = ReplaySelectionCall(required=False)
    to = serializers.DateTimeField(required=False)
    dead_letters = serializers.ListField(
        child=serializers.IntegerField(), required=False, help_text="Ids, at most 10,000."
    )
    rules = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Ids of rules, disabled ones too; default: all enabled.",
    )
    dry_run = serializers.BooleanField(required=False, help_text="Count and show samples; start nothing.")

    def get_fields(self) -> dict[str, serializers.Field]:
        return {**super().get_fields(), "from": serializers.DateTimeField(required=False)}


class ReplayAnswer(serializers.Serializer):
    """A replay and how far it is. Its id is the `replay_no` of its firings."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    state = serializers.CharField(help_text="running, done or failed.")
    reason = serializers.CharField()
    selection = serializers.DictField()
    rules = serializers.ListField(child=serializers.CharField())
    dry_run = serializers.BooleanField()
    position = serializers.IntegerField(help_text="The last event or dead letter that it has done.")
    counts = serializers.DictField(help_text="events, or dead_letters; and firings by outcome.")
    samples = serializers.ListField(child=serializers.DictField(), help_text="Of a dry run: what would happen.")
    by = serializers.CharField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


def envelope_answer(row: Event) -> dict[str, Any]:
    return {
        "messageId": row.message_id,
        "eventType": row.event_type,
        "timestamp": row.event_time,
        "source": row.source,
        "destination": row.destination,
        "priority": row.priority,
        "payload": row.payload,
        "metadata": row.metadata,
    }


def event_answer(shown: ShownEvent, base_url: str) -> dict[str, Any]:
    row = shown.event
    return {
        "id": row.pk,
        "url": event_url(row.pk, base_url),
        "envelope": envelope_answer(row),
        "received_at": row.received_at,
        "channel": row.channel,
        "state": row.state,
        "depth": row.depth,
        "firings": [firing_of_event_answer(each) for each in shown.firings],
        "not_fired": [
            {"rule": each.rule, "rule_id": each.rule_id, "rule_version": each.version} for each in shown.not_fired
        ],
    }


def event_detail_answer(shown: ShownEvent, runs: list[JobRun], base_url: str) -> dict[str, Any]:
    row = shown.event
    return {
        **event_answer(shown, base_url),
        "part": row.part,
        "offset": row.off,
        "ordering_key": row.ordering_key,
        "headers": row.headers,
        "runs": [
            {
                "id": run.pk,
                "url": run_url(run.pk, base_url),
                "job": run.job.name,
                "state": run.state,
                "reason": run.reason,
            }
            for run in runs
        ],
    }


def event_url(event_id: int, base_url: str) -> str:
    return f"{base_url}/api/v1/events/{event_id}"


def firing_of_event_answer(shown: ShownFiring) -> dict[str, Any]:
    row = shown.firing
    return {
        "id": row.pk,
        "rule": shown.rule,
        "rule_id": row.rule_id,
        "rule_version": row.rule_version,
        "replay_no": row.replay_no,
        "outcome": row.outcome,
        "reason": row.reason,
        "run_id": row.job_run_id,
    }


def firing_answer(shown: ShownFiring, base_url: str) -> dict[str, Any]:
    row = shown.firing
    return {
        **firing_of_event_answer(shown),
        "event_id": row.event_id,
        "event_url": event_url(row.event_id, base_url),
        "run_url": None if row.job_run_id is None else run_url(row.job_run_id, base_url),
        "stage": row.stage,
        "release_at": row.release_at,
        "expires_at": row.expires_at,
        "created_at": row.created_at,
    }


def dead_letter_answer(row: DeadLetter, base_url: str) -> dict[str, Any]:
    """Answer a dead letter of a list, which brings the first bytes of its message, or a whole one."""
    in_list = hasattr(row, "shown_raw")
    raw = bytes(row.shown_raw if in_list else row.raw)  # type: ignore[attr-defined]  # annotated by the selector
    return {
        "id": row.pk,
        "url": f"{base_url}/api/v1/dead-letters/{row.pk}",
        "event_source": row.event_source.slug if row.event_source else None,
        "channel": row.channel,
        "part": row.part,
        "offset": row.off,
        "message_id": row.message_id,
        "reason": row.reason,
        "error": row.error,
        "raw_base64": b64encode(raw[:SHOWN_BYTES] if in_list else raw).decode(),
        "raw_size": row.raw_size if in_list else len(raw),  # type: ignore[attr-defined]
        "headers": row.headers,
        "tries": row.tries,
        "state": row.state,
        "first_seen": row.first_seen,
        "last_seen": row.last_seen,
        "resolved_at": row.resolved_at,
        "resolved_by": row.resolved_by,
        "event_id": row.event_id,
    }


def replay_answer(row: Replay, base_url: str) -> dict[str, Any]:
    return {
        "id": row.pk,
        "url": f"{base_url}/api/v1/replays/{row.pk}",
        "state": row.state,
        "reason": row.reason,
        "selection": row.selection,
        "rules": row.rules,
        "dry_run": row.dry_run,
        "position": row.position,
        "counts": row.counts,
        "samples": row.samples,
        "by": row.by,
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }
