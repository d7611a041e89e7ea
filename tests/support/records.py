"""Rows in a named state, made without the engine: for tests of what reads the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec
from orchestrator.models import (
    ApiToken,
    Attempt,
    Dependency,
    Job,
    JobRun,
    JobVersion,
    Task,
    TaskRun,
    Tenant,
    Transition,
)
from orchestrator.services.tokens import DEFAULT_SCOPES, create_token
from orchestrator.states import ATTEMPT_FINAL, RUN_FINAL, TASK_FINAL, RunState, TaskState


def default_tenant() -> Tenant:
    return Tenant.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


def token_text(*scopes: str, jobs: tuple[str, ...] = (), tenant: Tenant | None = None, name: str = "ci") -> str:
    """A new token's text."""
    return new_token(*scopes, jobs=jobs, tenant=tenant, name=name)[1]


def new_token(
    *scopes: str, jobs: tuple[str, ...] = (), tenant: Tenant | None = None, name: str = "ci"
) -> tuple[ApiToken, str]:
    return create_token(tenant=tenant or default_tenant(), name=name, scopes=scopes or DEFAULT_SCOPES, job_names=jobs)


def new_job(name: str = "nightly-etl", *, tasks: tuple[str, ...] = ("extract",), tenant: Tenant | None = None) -> Job:
    """A job whose tasks are no-ops, one after the other."""
    spec = JobSpec(
        name=name,
        tasks=tuple(
            TaskSpec(task, "noop", depends_on=(DependencySpec(tasks[index - 1]),) if index else ())
            for index, task in enumerate(tasks)
        ),
    )
    job = Job.objects.create(tenant=tenant or default_tenant(), name=name)
    version = JobVersion.objects.create(
        job=job,
        number=1,
        content_hash=spec.content_hash(),
        spec=spec.canonical(),
        source=f"kind: Job\nname: {name}\n",
        author="ada",
        task_count=len(tasks),
    )
    Task.objects.bulk_create(
        Task(
            version=version,
            position=index,
            name=task,
            type="noop",
            upstream_count=int(index > 0),
            downstream_count=int(index < len(tasks) - 1),
        )
        for index, task in enumerate(tasks)
    )
    Dependency.objects.bulk_create(
        Dependency(version=version, upstream_position=index, downstream_position=index + 1)
        for index in range(len(tasks) - 1)
    )
    job.latest_version = version
    job.save()
    return job


def new_run(job: Job, state: RunState = RunState.RUNNING, *, key: str | None = None, **more: Any) -> JobRun:
    """A run in the given state, without task runs."""
    now = timezone.now()
    assert job.latest_version is not None
    return JobRun.objects.create(
        tenant=job.tenant,
        job=job,
        version=job.latest_version,
        trigger_key=key or f"test:{job.pk}:{JobRun.objects.count()}",
        **{
            "trigger": {"kind": "manual", "by": "ada"},
            "logical_date": now,
            "created_at": now,
            "state": state,
            "started_at": now if state != RunState.PENDING else None,
            "ended_at": now if state in RUN_FINAL else None,
            **more,
        },
    )


def new_task_run(run: JobRun, position: int = 0, state: TaskState = TaskState.SUCCEEDED, **more: Any) -> TaskRun:
    now = timezone.now()
    task = Task.objects.get(version=run.version, position=position)
    ended = now if state in TASK_FINAL else None
    return TaskRun.objects.create(
        run=run, position=position, task=task, state=state, ready_at=now, ended_at=ended, **more
    )


def new_attempt(task_run: TaskRun, state: str = "succeeded", number: int = 1, **more: Any) -> Attempt:
    now = timezone.now()
    ended: datetime | None = now if state in ATTEMPT_FINAL else None
    return Attempt.objects.create(
        task_run=task_run, number=number, token=number, state=state, started_at=now, ended_at=ended, **more
    )


def new_transition(run: JobRun, old: str, new: str, **more: Any) -> Transition:
    return Transition.objects.create(
        **{
            "at": timezone.now(),
            "subject": "run",
            "subject_id": run.pk,
            "run_id": run.pk,
            "from_state": old,
            "to_state": new,
            **more,
        }
    )
