"""Runs in a named state, made by the engine itself: every row and transition is what production would write."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import F

from orchestrator.dag.spec import ConcurrencySpec, JobSpec, WhenFull
from orchestrator.models import Attempt, Fragment, Job, JobRun, LockRequest, TaskRun, Tenant, Transition
from orchestrator.services.jobs import apply_definition
from orchestrator.services.runs import start_run
from tests.support.graphs import drawn

_numbers = itertools.count(1)

#: Columns that make a row older when they are moved into the past.
MOMENTS: Mapping[type, tuple[str, ...]] = {
    JobRun: ("created_at", "started_at", "ended_at", "deadline_at", "paused_at", "stop_requested_at"),
    TaskRun: (
        "ready_at", "due_at", "lease_until", "deadline_at", "started_at", "ended_at", "planned_at", "hint_published_at",
        "stop_requested_at",
    ),
    Attempt: ("started_at", "ended_at"),
    Fragment: ("created_at",),
    LockRequest: ("asked_at", "granted_at", "release_at"),
    Transition: ("at",),
}  # fmt: skip
_RUN_OF: Mapping[type, str] = {
    JobRun: "pk__in",
    TaskRun: "run__in",
    Attempt: "task_run__run__in",
    Fragment: "run__in",
    LockRequest: "task_run__run__in",
    Transition: "run_id__in",
}


def default_tenant() -> Tenant:
    return Tenant.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


def job_of(
    drawing: str | JobSpec,
    *,
    name: str | None = None,
    limit: int | None = None,
    when_full: WhenFull = "queue",
    **fields: Any,
) -> Job:
    """A job with one version, from a drawing (see `graphs`)."""
    if isinstance(drawing, str):
        # The process is part of the name: tests on two processes may share a database server, never a job.
        name = name or f"job-{os.getpid()}-{next(_numbers)}"
        drawing = drawn(drawing, name=name, concurrency=ConcurrencySpec(limit, when_full), **fields)
    return apply_definition(tenant=default_tenant(), spec=drawing, source="", author="ada").job


def run_of(job: Job | str | JobSpec, *, key: str | None = None, parameters: Mapping[str, Any] | None = None) -> JobRun:
    """A run of a job or of a drawing: running, its first tasks ready, unless its job's concurrency holds it."""
    job = job if isinstance(job, Job) else job_of(job)
    started = start_run(
        tenant=default_tenant(),
        job_name=job.name,
        parameters=parameters or {},
        trigger={"kind": "test", "by": "ada"},
        trigger_key=key,
    )
    return JobRun.objects.get(pk=started.run.pk)


def age(*runs: JobRun, seconds: float) -> None:
    """Make all that is recorded of these runs so much older, as if that time had passed."""
    ids = [run.pk for run in runs]
    for model, columns in MOMENTS.items():
        model.objects.filter(**{_RUN_OF[model]: ids}).update(  # type: ignore[attr-defined]  # models only
            **{column: F(column) - timedelta(seconds=seconds) for column in columns}
        )


def task_of(run: JobRun, name: str) -> TaskRun:
    return TaskRun.objects.select_related("run", "task").get(run=run, task__name=name)


def states_of(run: JobRun) -> dict[str, str]:
    """Task → state, in the order of positions."""
    return dict(TaskRun.objects.filter(run=run).order_by("position").values_list("task__name", "state"))


def state_of(run: JobRun) -> str:
    return JobRun.objects.values_list("state", flat=True).get(pk=run.pk)


def moves_of(run: JobRun, name: str) -> list[str]:
    """The states that a task went through, as its transitions tell."""
    rows = Transition.objects.filter(subject="task_run", subject_id=task_of(run, name).pk).order_by("id")
    return [str(state) for pair in rows.values_list("from_state", "to_state")[:1] for state in pair] + [
        str(state) for state in rows.values_list("to_state", flat=True)[1:]
    ]
