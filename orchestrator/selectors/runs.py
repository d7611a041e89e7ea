"""Runs, their task runs, attempts and transitions, as one tenant sees them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from orchestrator.errors import NotFound, UnknownRun, UnknownTaskRun
from orchestrator.models import Attempt, JobRun, TaskRun, Transition
from orchestrator.selectors.pages import Page, page_of
from orchestrator.states import RUN_FINAL

_HEAVY = ("version__spec", "version__source", "event")


class UnknownAttempt(NotFound):
    """There is no such attempt."""

    code = "unknown_attempt"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list shows; what is empty or None does not matter."""

    job: str | None = None
    states: tuple[str, ...] = ()
    trigger_kind: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def run_of(tenant_id: int, run_id: int) -> JobRun:
    """Return a run with its job and version; raises UnknownRun."""
    runs = JobRun.objects.select_related("job", "version").defer(*_HEAVY)
    run = runs.filter(pk=run_id, tenant_id=tenant_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    return run


def runs_of(
    tenant_id: int,
    chosen: RunFilter | None = None,
    *,
    job_names: Collection[str] = (),
    before: int | None = None,
    limit: int = 50,
) -> Page[JobRun]:
    """Return a page of runs, newest first; `job_names`, if any, are all that the caller may see."""
    chosen = chosen or RunFilter()
    runs = JobRun.objects.filter(tenant_id=tenant_id)
    if job_names:
        runs = runs.filter(job__name__in=job_names)
    if chosen.job is not None:
        runs = runs.filter(job__name=chosen.job)
    if chosen.states:
        runs = runs.filter(state__in=chosen.states)
    if chosen.trigger_kind is not None:
        runs = runs.filter(trigger__kind=chosen.trigger_kind)
    if chosen.created_from is not None:
        runs = runs.filter(created_at__gte=chosen.created_from)
    if chosen.created_to is not None:
        runs = runs.filter(created_at__lt=chosen.created_to)
    if before is not None:
        runs = runs.filter(pk__lt=before)
    runs = runs.select_related("job", "version").defer(*_HEAVY).order_by("-pk")
    return page_of(runs, limit=limit, cursor_of=lambda run: run.pk)


def ended_among(run_ids: Iterable[int]) -> set[int]:
    """Return those of the runs that have ended or are gone, in one query."""
    asked = set(run_ids)
    open_runs = JobRun.objects.filter(pk__in=asked).exclude(state__in=RUN_FINAL)
    return asked - set(open_runs.values_list("pk", flat=True))


def task_runs_of(run: JobRun, *, after: int | None = None, limit: int = 200) -> Page[TaskRun]:
    """Return a page of a run's task runs, in topological order."""
    rows = TaskRun.objects.filter(run=run).select_related("task").order_by("position")
    if after is not None:
        rows = rows.filter(position__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.position)


def task_run_of(tenant_id: int, task_run_id: int) -> TaskRun:
    """Return a task run with its run and job; raises UnknownTaskRun."""
    rows = TaskRun.objects.select_related("run__job").only("id", "run__id", "run__job__name")
    row = rows.filter(pk=task_run_id, run__tenant_id=tenant_id).first()
    if row is None:
        raise UnknownTaskRun(f"There is no task run {task_run_id}.")
    return row


def attempts_of(task_run: TaskRun) -> list[Attempt]:
    """Return the attempts of a task run, first to last; their number is bounded by its retries."""
    return list(Attempt.objects.filter(task_run=task_run).order_by("number"))


def attempt_of(tenant_id: int, attempt_id: int) -> Attempt:
    """Return an attempt with its run and job; raises UnknownAttempt."""
    rows = Attempt.objects.select_related("task_run__run__job").only(
        "id", "state", "ended_at", "task_run__id", "task_run__run__id", "task_run__run__job__name"
    )
    row = rows.filter(pk=attempt_id, task_run__run__tenant_id=tenant_id).first()
    if row is None:
        raise UnknownAttempt(f"There is no attempt {attempt_id}.")
    return row


def transitions_of(run: JobRun, *, after: int | None = None, limit: int = 200) -> Page[Transition]:
    """Return a page of what happened in a run, oldest first."""
    rows = Transition.objects.filter(run_id=run.pk).order_by("pk")
    if after is not None:
        rows = rows.filter(pk__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.pk)
