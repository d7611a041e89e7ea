"""How jobs of one shell command look under `/api/v1/tasks`."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.api.serializers.runs import RunAnswer, run_answer
from orchestrator.models import Job
from orchestrator.selectors.jobs import JobStatus, spec_of_job
from orchestrator.services.single_tasks import Stopped, single_task_of

#: The status of a job that never ran.
IDLE = "idle"


class TaskCall(serializers.Serializer):
    """A job of one shell command."""

    name = serializers.CharField(
        max_length=63, help_text="The job's name is made of it: `Backup DB` and `backup_db` become `backup-db`."
    )
    command = serializers.CharField(help_text="One shell command line; a fixed text, never a template.")
    schedule = serializers.CharField(required=False, help_text='Cron of five fields such as "0 2 * * *".')
    timeout = serializers.JSONField(required=False, help_text='Seconds, or a text such as "30m"; default: 1h.')


class TaskAnswer(serializers.Serializer):
    """A job of one shell command; `id` is the job's."""

    id = serializers.IntegerField()
    name = serializers.CharField(help_text="The job's.")
    description = serializers.CharField()
    schedule = serializers.CharField(allow_null=True)
    command = serializers.CharField()
    timeout = serializers.FloatField(help_text="Seconds.")
    status = serializers.CharField(help_text="State of the newest run; idle: there was none.")
    url = serializers.CharField()
    job_url = serializers.CharField()


def task_answer(job: Job, base_url: str, *, run_state: str | None = None) -> dict[str, Any]:
    return {
        "id": job.pk,
        "name": job.name,
        "description": job.description,
        **single_task_of(spec_of_job(job)),
        "status": run_state or IDLE,
        "url": f"{base_url}/api/v1/tasks/{job.pk}",
        "job_url": f"{base_url}/api/v1/jobs/{job.pk}",
    }


class TaskStatusAnswer(serializers.Serializer):
    """How a job's runs stand."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    status = serializers.CharField(help_text="State of the newest run; idle: there was none.")
    paused = serializers.BooleanField()
    archived = serializers.BooleanField()
    open_runs = serializers.IntegerField()
    last_run = RunAnswer(allow_null=True)


def task_status_answer(job: Job, status: JobStatus, base_url: str) -> dict[str, Any]:
    return {
        "id": job.pk,
        "name": job.name,
        "status": status.newest.state if status.newest else IDLE,
        "paused": job.paused_at is not None,
        "archived": job.archived_at is not None,
        "open_runs": status.open_runs,
        "last_run": run_answer(status.newest, base_url) if status.newest else None,
    }


class ExecuteCall(serializers.Serializer):
    """Values of the job's parameters, if it has any."""

    parameters = serializers.DictField(required=False)


class StoppedAnswer(serializers.Serializer):
    """Which runs were cancelled."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    stopped = serializers.ListField(child=serializers.IntegerField(), help_text="Ids of the runs.")
    remaining = serializers.IntegerField(help_text="Runs still open: call again.")


def stopped_answer(job: Job, stopped: Stopped) -> dict[str, Any]:
    return {"id": job.pk, "name": job.name, "stopped": list(stopped.run_ids), "remaining": stopped.remaining}
