"""Runs that nobody launched, planned or finished, because the process that should have died before it did."""

from __future__ import annotations

import logging

from django.db import connection
from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from orchestrator.canvas import binding
from orchestrator.ledger import admission
from orchestrator.ledger.advance import advance_run, apply
from orchestrator.ledger.finish import finish_if_over
from orchestrator.ledger.healing.rows import BATCH, Guard
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, record
from orchestrator.ledger.turns import stalled_keys
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Job, JobRun, TaskRun
from orchestrator.planning.holds import KEY_TURN
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.planning.patience import UNLAUNCHED_AFTER, UNPLANNED_AFTER
from orchestrator.states import TASK_OPEN, RunState, TaskState

logger = logging.getLogger(__name__)


def unplanned(guard: Guard) -> int:
    """Advance runs with final tasks that nobody planned; a chord's headers only when none of their fragment is open."""
    siblings = TaskRun.objects.filter(fragment_id=OuterRef("fragment_id"), state__in=TASK_OPEN)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    run_ids = list(
        TaskRun.objects.filter(ended_at__lt=now - UNPLANNED_AFTER, planned_at__isnull=True)
        .filter(Q(fragment__isnull=True) | ~Exists(siblings))
        .values_list("run_id", flat=True)
        .distinct()[:BATCH]
    )
    for run_id in run_ids:
        binding.publish(advance_run(run_id))
    return len(run_ids)


def unlaunched(guard: Guard) -> int:
    """Look at pending runs whose launch was lost; returns how many got a verdict."""
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    waiting = JobRun.objects.filter(state=RunState.PENDING, reason="", created_at__lt=now - UNLAUNCHED_AFTER)
    rows = list(waiting.order_by("created_at", "pk").values_list("pk", "job_id")[:BATCH])
    by_job: dict[int, list[int]] = {}
    for run_id, job_id in rows:
        by_job.setdefault(job_id, []).append(run_id)
    for job_id, ids in by_job.items():
        binding.publish(admission.admit_runs(job_id, ids))
    # Some may be in somebody else's hands: they are looked at in the next round, not over and over in this one.
    return len(rows) - waiting.filter(pk__in=[run_id for run_id, _ in rows]).count()


def held(guard: Guard) -> int:
    """Admit held runs of jobs that have room again, or are paused no more."""
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    # Of the open runs alone, which an index has: a job's history may be long.
    running = Subquery(
        JobRun.objects.filter(job_id=OuterRef("pk"), state=RunState.RUNNING)
        .order_by()
        .values("job_id")
        .annotate(n=Count("id"))
        .values("n")
    )
    pending = JobRun.objects.filter(
        job_id=OuterRef("pk"), state=RunState.PENDING, created_at__lt=now - UNLAUNCHED_AFTER
    ).exclude(reason__in=["", KEY_TURN])
    jobs = (
        Job.objects.filter(Exists(pending), paused_at__isnull=True)
        .annotate(running=Coalesce(running, 0))
        .filter(Q(concurrency_limit__isnull=True) | Q(running__lt=F("concurrency_limit")))
        .values_list("id", flat=True)[:BATCH]
    )
    for job_id in list(jobs):
        binding.publish(admission.admit_job(job_id))
    return len(jobs)


def stalled_turns(guard: Guard) -> int:
    """Let in the next run of keys that nobody holds any more: whoever ended the run before it died too early."""
    if in_transaction(lambda: database_now() if guard() else None) is None:
        return 0
    keys = stalled_keys(BATCH)
    for key in keys:
        binding.publish(admission.admit_key(key))
    return len(keys)


def unfinished(guard: Guard) -> int:
    """Finish running runs with nothing open: the process that ended their last task died before it looked."""
    open_tasks = TaskRun.objects.filter(run_id=OuterRef("pk"), state__in=TASK_OPEN)
    unplanned = TaskRun.objects.filter(run_id=OuterRef("pk"), ended_at__isnull=False, planned_at__isnull=True)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    run_ids = list(
        JobRun.objects.filter(~Exists(open_tasks), ~Exists(unplanned), state=RunState.RUNNING,
                              started_at__lt=now - UNPLANNED_AFTER).values_list("id", flat=True)[:BATCH]
    )  # fmt: skip
    for run_id in run_ids:
        binding.publish(finish_if_over(run_id))
    return len(run_ids)


def stuck(guard: Guard) -> int:
    """Plan every waiting task of a run in which nothing moves: a defect of ours, healed and counted."""
    moving = TaskRun.objects.filter(
        Q(state__in=TASK_OPEN - {TaskState.WAITING}) | Q(ended_at__isnull=False, planned_at__isnull=True),
        run_id=OuterRef("pk"),
    )
    waiting = TaskRun.objects.filter(run_id=OuterRef("pk"), state=TaskState.WAITING)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    runs = list(
        JobRun.objects.filter(~Exists(moving), Exists(waiting), state=RunState.RUNNING,
                              started_at__lt=now - UNPLANNED_AFTER).values_list("id", "version_id")[:BATCH]
    )  # fmt: skip
    for run_id, version_id in runs:
        logger.error("run was stuck", extra={"run": run_id})
        binding.publish(in_transaction(lambda: _plan_waiting(run_id, version_id)))  # noqa: B023  called at once
        binding.publish(advance_run(run_id))
    return len(runs)


def _plan_waiting(run_id: int, version_id: int) -> list[binding.Hint]:
    version = compiled_version(version_id)
    rows = list(TaskRun.objects.select_for_update(of=("self",)).filter(run_id=run_id).order_by("id"))
    near = Neighbourhood(
        candidates=tuple(
            Candidate(row.position, version.tasks[row.position].join, version.graph.dependencies[row.position])
            for row in rows
            if row.state == TaskState.WAITING
        ),
        states={row.position: TaskState(row.state) for row in rows},
        names=dict(enumerate(version.graph.names)),
        results={row.position: row.result for row in rows},
        parameters=JobRun.objects.values_list("parameters", flat=True).get(pk=run_id),
        event=JobRun.objects.values_list("event", flat=True).get(pk=run_id),
    )
    with connection.cursor() as cursor:
        step = apply(cursor, run_id=run_id, version=version, near=near)
    record(
        subject="run", subject_id=run_id, run_id=run_id, old=RunState.RUNNING, new=RunState.RUNNING,
        now=database_now(), reason="nothing moved: all waiting tasks planned again", cause="reconciler",
    )  # fmt: skip
    return list(step.hints)
