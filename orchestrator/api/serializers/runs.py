"""How runs, task runs and attempts look in answers."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from orchestrator.models import Attempt, JobRun, TaskRun, Transition

#: What the engine keeps in a trigger for itself.
_PRIVATE = frozenset({"fingerprint", "copies"})


class RunAnswer(serializers.Serializer):
    """A run. Values of secret parameters are never stored in it; their place is `{"secret": name}`."""

    id = serializers.IntegerField()
    url = serializers.CharField()
    job = serializers.CharField()
    version = serializers.IntegerField()
    state = serializers.CharField()
    reason = serializers.CharField()
    priority = serializers.CharField(help_text="P0 urgent … P3 when idle.")
    parameters = serializers.DictField()
    trigger = serializers.DictField(
        help_text="`kind`: api, manual, cli, schedule …; `by`: who. Of an event: `type`, `rule`, `event_id` …"
    )
    event_id = serializers.IntegerField(allow_null=True, help_text="The event that started it.")
    logical_date = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    paused_at = serializers.DateTimeField(allow_null=True)
    paused_by = serializers.CharField()
    pause_reason = serializers.CharField()
    stop_requested_at = serializers.DateTimeField(allow_null=True)
    rerun_of = serializers.IntegerField(allow_null=True)


def run_answer(run: JobRun, base_url: str) -> dict[str, Any]:
    return {
        "id": run.pk,
        "url": run_url(run.pk, base_url),
        "job": run.job.name,
        "version": run.version.number,
        "state": run.state,
        "reason": run.reason,
        "priority": f"P{run.priority}",
        "parameters": run.parameters,
        "trigger": {key: value for key, value in run.trigger.items() if key not in _PRIVATE},
        "event_id": run.event_id,
        "logical_date": run.logical_date,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "paused_at": run.paused_at,
        "paused_by": run.paused_by,
        "pause_reason": run.pause_reason,
        "stop_requested_at": run.stop_requested_at,
        "rerun_of": run.rerun_of_id,
    }


def run_url(run_id: int, base_url: str) -> str:
    return f"{base_url}/api/v1/runs/{run_id}"


class TaskRunAnswer(serializers.Serializer):
    """One execution of a task within a run."""

    id = serializers.IntegerField()
    task = serializers.CharField()
    type = serializers.CharField()
    state = serializers.CharField()
    reason = serializers.CharField()
    attempts = serializers.IntegerField(help_text="How many attempts there were.")
    worker = serializers.CharField()
    ready_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    due_at = serializers.DateTimeField(allow_null=True, help_text="When the next attempt is due.")
    result = serializers.JSONField()
    result_ref = serializers.CharField(help_text="Where a result over 16 KiB lies in the store.")
    carried_from = serializers.IntegerField(
        allow_null=True, help_text="In a re-run: the task run that was executed, whose state and result this one has."
    )


def task_run_answer(row: TaskRun) -> dict[str, Any]:
    return {
        "id": row.pk,
        "task": row.task.name,
        "type": row.task.type,
        "state": row.state,
        "reason": row.reason,
        "attempts": row.attempt_count,
        "worker": row.worker,
        "ready_at": row.ready_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "due_at": row.due_at,
        "result": row.result,
        "result_ref": row.result_ref,
        "carried_from": row.carried_from_id,
    }


class TaskRunDetailAnswer(TaskRunAnswer):
    """A task run with the run that it belongs to."""

    run = serializers.IntegerField()
    run_url = serializers.CharField()
    job = serializers.CharField()
    position = serializers.IntegerField(help_text="Place in topological order.")


def task_run_detail_answer(row: TaskRun, base_url: str) -> dict[str, Any]:
    return {
        **task_run_answer(row),
        "run": row.run_id,
        "run_url": run_url(row.run_id, base_url),
        "job": row.run.job.name,
        "position": row.position,
    }


class AttemptAnswer(serializers.Serializer):
    """One try by one worker."""

    number = serializers.IntegerField()
    id = serializers.IntegerField()
    state = serializers.CharField()
    reason = serializers.CharField()
    failure_kind = serializers.CharField()
    worker = serializers.CharField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    exit_code = serializers.IntegerField(allow_null=True)


def attempt_answer(row: Attempt) -> dict[str, Any]:
    return {
        "number": row.number,
        "id": row.pk,
        "state": row.state,
        "reason": row.reason,
        "failure_kind": row.failure_kind,
        "worker": row.worker,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "exit_code": row.exit_code,
    }


#: An event of a log that is followed; `data` is a word of REST framework, so it cannot be written as an attribute.
LogEvent = inline_serializer(
    "LogEvent",
    {
        "id": serializers.CharField(required=False, help_text="Of `log`: the offset behind its text."),
        "event": serializers.ChoiceField(["log", "end"]),
        "data": serializers.CharField(help_text='JSON: `{"text"}` of `log`, `{"state"}` of `end`.'),
    },
)


class TransitionAnswer(serializers.Serializer):
    """A fact of the ledger: who moved what from which state to which, and why."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    subject = serializers.CharField(help_text="run, task_run or attempt")
    subject_id = serializers.IntegerField()
    to = serializers.CharField()
    reason = serializers.CharField()
    cause = serializers.CharField()
    by = serializers.CharField()

    def get_fields(self) -> dict[str, serializers.Field]:
        # `from` is a keyword of Python, so it cannot be written as an attribute.
        fields = super().get_fields()
        before = ("id", "at", "subject", "subject_id")
        return {
            **{name: fields[name] for name in before},
            "from": serializers.CharField(),
            **{name: field for name, field in fields.items() if name not in before},
        }


def transition_answer(row: Transition) -> dict[str, Any]:
    return {
        "id": row.pk,
        "at": row.at,
        "subject": row.subject,
        "subject_id": row.subject_id,
        "from": row.from_state,
        "to": row.to_state,
        "reason": row.reason,
        "cause": row.cause,
        "by": row.by,
    }


class TriggerCall(serializers.Serializer):
    """What a trigger call sends."""

    jobName = serializers.CharField()
    parameters = serializers.DictField(required=False)


class TriggerAnswer(serializers.Serializer):
    """The run that a trigger call started, or the one that its idempotency key had started before."""

    id = serializers.IntegerField()
    state = serializers.CharField()
    url = serializers.CharField()
    created = serializers.BooleanField()
    reason = serializers.CharField(help_text="Why the run waits or was not started, if so.")


class ReasonCall(serializers.Serializer):
    """Why, in the caller's words; it is kept with the transition."""

    reason = serializers.CharField(required=False, max_length=500)
