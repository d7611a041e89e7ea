"""Runs, their task runs, attempts and transitions, as one tenant sees them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from orchestrator.errors import NotFound, UnknownRun, UnknownTaskRun
from orchestrator.models import Attempt, Job, JobRun, TaskRun, Transition
from orchestrator.selectors.pages import Page, page_of
from orchestrator.states import ATTEMPT_FINAL, RUN_FINAL

_HEAVY = ("version__spec", "version__source", "event")


class UnknownAttempt(NotFound):
    """There is no such attempt."""

    code = "unknown_attempt"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list shows; what is empty or None does not matter."""

    job: str | None = None
    #: Runs of jobs that carry this tag now.
    tag: str | None = None
    states: tuple[str, ...] = ()
    trigger_kind: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    rerun_of: int | None = None


def run_of(tenant_id: int, run_id: int) -> JobRun:
    """Return a run with its job and version; raises UnknownRun."""
    runs = JobRun.objects.select_related("job", "version").defer(*_HEAVY)
    run = runs.filter(pk=run_id, tenant_id=tenant_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    return run


def chosen_runs(tenant_id: int, chosen: RunFilter, *, job_names: Collection[str] = ()) -> QuerySet[JobRun, JobRun]:
    """Return the runs that a filter chooses, in no order; `job_names`, if any, are all that the caller may see."""
    runs = JobRun.objects.filter(tenant_id=tenant_id)
    if job_names:
        runs = runs.filter(job__name__in=job_names)
    if chosen.job is not None:
        runs = runs.filter(job__name=chosen.job)
    if chosen.tag is not None:
        # Tags are a JSON list, which SQLite cannot search by an operator; a tenant has hundreds of jobs, not millions.
        tags = Job.objects.filter(tenant_id=tenant_id).values_list("pk", "tags")
        runs = runs.filter(job_id__in=[pk for pk, own in tags if chosen.tag in own])
    if chosen.states:
        runs = runs.filter(state__in=chosen.states)
    if chosen.trigger_kind is not None:
        # What an event or a message started says its type.
        runs = runs.filter(Q(trigger__kind=chosen.trigger_kind) | Q(trigger__type=chosen.trigger_kind))
    if chosen.created_from is not None:
        runs = runs.filter(created_at__gte=chosen.created_from)
    if chosen.created_to is not None:
        runs = runs.filter(created_at__lt=chosen.created_to)
    if chosen.rerun_of is not None:
        runs = runs.filter(rerun_of_id=chosen.rerun_of)
    return runs


def runs_of(
    tenant_id: int,
    chosen: RunFilter | None = None,
    *,
    job_names: Collection[str] = (),
    before: int | None = None,
    limit: int = 50,
) -> Page[JobRun]:
    """Return a page of runs, newest first; `job_names`, if any, are all that the caller may see."""
    runs = chosen_runs(tenant_id, chosen or RunFilter(), job_names=job_names)
    if before is not None:
        runs = runs.filter(pk__lt=before)
    runs = runs.select_related("job", "version").defer(*_HEAVY).order_by("-pk")
    return page_of(runs, limit=limit, cursor_of=lambda run: run.pk)


def ended_among(run_ids: Iterable[int]) -> set[int]:
    """Return those of the runs that have ended or are gone, in one query."""
    asked = set(run_ids)
    open_runs = JobRun.objects.filter(pk__in=asked).exclude(state__in=RUN_FINAL)
    return asked - set(open_runs.values_list("pk", flat=True))


def ends_of_attempts(attempt_ids: Iterable[int]) -> dict[int, str]:
    """Return attempt → its final state, empty while it runs, in one query; one that is gone is left out."""
    states = Attempt.objects.filter(pk__in=list(attempt_ids)).values_list("pk", "state")
    return {pk: state if state in ATTEMPT_FINAL else "" for pk, state in states}


def task_runs_of(
    run: JobRun,
    *,
    states: tuple[str, ...] = (),
    task: str | None = None,
    after: int | None = None,
    limit: int = 200,
) -> Page[TaskRun]:
    """Return a page of a run's task runs, in topological order."""
    rows = TaskRun.objects.filter(run=run).select_related("task").order_by("position")
    if states:
        rows = rows.filter(state__in=states)
    if task is not None:
        rows = rows.filter(task__name=task)
    if after is not None:
        rows = rows.filter(position__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.position)


def task_run_of(tenant_id: int, task_run_id: int, *, whole: bool = False) -> TaskRun:
    """Return a task run with its run and job, and if `whole` with its task and result; raises UnknownTaskRun."""
    rows = TaskRun.objects.select_related("run__job")
    if whole:
        rows = rows.select_related("run__job", "task").defer("run__event")
    else:
        rows = rows.only("id", "run__id", "run__job__name")
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


def transitions_of(
    run: JobRun,
    *,
    subjects: tuple[str, ...] = (),
    task_run: TaskRun | None = None,
    after: int | None = None,
    limit: int = 200,
) -> Page[Transition]:
    """Return a page of what happened in a run, or to one of its task runs and its attempts, oldest first."""
    rows = Transition.objects.filter(run_id=run.pk).order_by("pk")
    if subjects:
        rows = rows.filter(subject__in=subjects)
    if task_run is not None:
        attempts = Attempt.objects.filter(task_run=task_run).values("pk")
        rows = rows.filter(
            Q(subject="task_run", subject_id=task_run.pk) | Q(subject="attempt", subject_id__in=attempts)
        )
    if after is not None:
        rows = rows.filter(pk__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.pk)


def latest_transitions(
    run: JobRun, *, before: int | None = None, limit: int = 100
) -> tuple[list[Transition], int | None]:
    """Return what happened last in a run, newest first, and the cursor of what was before, if anything was."""
    rows = Transition.objects.filter(run_id=run.pk).order_by("-id")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found = list(rows[: limit + 1])
    return found[:limit], found[limit - 1].pk if len(found) > limit else None
