"""Run admission: may this pending run start? Pause and the job's concurrency policy decide, under the job's row lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.start import start_tasks
from orchestrator.ledger.statements import statements
from orchestrator.ledger.stops import stop_run_locked
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_run
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Job, JobRun
from orchestrator.states import RUN_FINAL, RunState

#: Runs admitted in one transaction.
BATCH = 100


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as admission locks it: shared without a limit, exclusively with one."""

    id: int
    is_paused: bool
    limit: int | None
    when_full: str


def lock_job(job_id: int, *, limit: int | None) -> JobRow:
    """Lock the job's row: shared while it has no limit to count against, else exclusively.

    `limit` is what the caller read before. Several admissions may share the lock; a pause or a change of limit waits.
    """
    with connection.cursor() as cursor:
        job = JobRow(*statements().lock_job(cursor, job_id=job_id, shared=limit is None))
        if limit is None and job.limit is not None:
            # It got a limit since it was read. Two that upgrade at once deadlock, and the victim is repeated.
            job = JobRow(*statements().lock_job(cursor, job_id=job_id, shared=False))
        return job


def admit_job(job_id: int) -> list[Hint]:
    """Let in the pending runs of a job that may start, oldest first within their priority. Safe to call twice."""
    hints: list[Hint] = []
    while True:
        admitted, more = in_transaction(lambda: _admit_batch(job_id))
        hints += admitted
        if not more:
            return hints


def _admit_batch(job_id: int) -> tuple[list[Hint], bool]:
    job = lock_job(job_id, limit=Job.objects.values_list("concurrency_limit", flat=True).get(pk=job_id))
    pending = list(JobRun.objects.filter(job_id=job_id, state=RunState.PENDING).order_by("priority", "id")[: BATCH + 1])
    if job.is_paused or not pending:
        return [], False
    hints = decide_locked(job, pending[:BATCH])
    return hints, len(pending) > BATCH and any(run.state != RunState.PENDING for run in pending[:BATCH])


def decide_locked(job: JobRow, pending: Sequence[JobRun]) -> list[Hint]:
    """Decide pending runs of a job whose row the caller has locked; returns hints for after the commit."""
    if job.is_paused:
        return []
    if job.limit is None:
        return [hint for run in pending for hint in start_locked(run)]
    now = database_now()
    hints: list[Hint] = []
    running = JobRun.objects.filter(job_id=job.id, state=RunState.RUNNING)
    free = job.limit - running.count()
    if job.when_full == "cancel_running":
        # The newest runs win; what they replace, waiting or running, is stopped.
        pending = sorted(pending, key=lambda run: run.pk)
        for run in pending[: -job.limit]:
            move_run(run, RunState.CANCELLED, now=now, reason="concurrency_replaced", cause="admission")
        pending = pending[-job.limit :]
        # Those that were asked before make room too: admitting again stops no further run.
        stopping = running.filter(stop_requested_at__isnull=False).count()
        surplus = max(0, len(pending) - free - stopping)
        for old in running.filter(stop_requested_at__isnull=True).order_by("id")[:surplus]:
            hints += stop_run_locked(old.pk, state=RunState.CANCELLED, reason="concurrency_replaced", cause="admission")
        free = job.limit - running.count()
    for run in pending:
        if free > 0:
            hints += start_locked(run)
            # A re-run with nothing left to run has ended already, and takes no room.
            free -= run.state not in RUN_FINAL
        elif job.when_full == "skip":
            move_run(run, RunState.CANCELLED, now=now, reason="concurrency_skip", cause="admission")
    return hints


def start_locked(run: JobRun) -> list[Hint]:
    """Move a pending run to running, insert its task runs and start those that wait for none. Sets `run.state`."""
    version = compiled_version(run.version_id)
    with connection.cursor() as cursor:
        if not statements().admit(cursor, run_id=run.pk, timeout=version.spec.timeout):
            return []
        run.state = RunState.RUNNING
        if run.rerun_of_id is not None:
            from orchestrator.ledger.reruns import start_rerun  # it plans, and the end of a run admits the next

            return start_rerun(cursor, run, version)
        statements().insert_task_runs(cursor, run_id=run.pk, version_id=run.version_id)
        return start_tasks(cursor, run_id=run.pk, version=version, ready=version.graph.roots)
