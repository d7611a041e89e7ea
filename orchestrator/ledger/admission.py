"""Run admission: may this pending run start? Pause, its key and the job's concurrency policy decide, in this order.

Under the job's row lock, then the locks of the keys, then those of the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.start import start_tasks
from orchestrator.ledger.statements import statements
from orchestrator.ledger.stops import stop_run_locked
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_run
from orchestrator.ledger.turns import front_of, lock_keys, ripen, whose_turn
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Job, JobRun
from orchestrator.planning.holds import DROPPED_WHILE_PAUSED, EXPIRED, JOB_FULL, JOB_PAUSED, KEY_TURN
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
        look = in_transaction(lambda: _admit_batch(job_id))
        hints += look.hints
        if not look.more:
            return hints


def admit_runs(job_id: int, run_ids: Sequence[int]) -> list[Hint]:
    """Look at these runs of a job: each that is pending starts, ends, or gets the reason why it waits.

    Of a job with a limit, older ones and those of a higher priority go first. Safe to call twice.
    """
    hints: list[Hint] = []
    left = sorted(run_ids)
    while left:
        chosen, left = left[:BATCH], left[BATCH:]
        look = in_transaction(lambda: _admit_batch(job_id, chosen))  # noqa: B023  called at once
        hints += look.hints
        # Of a job with a limit, one look has not reached those behind; they are looked at as far as there is room.
        if look.full:
            _hold_all([*chosen, *left])
            return hints
        if look.limited and look.more:
            hints += admit_job(job_id)
        left += look.ripe
    return hints


def admit_key(key: UUID) -> list[Hint]:
    """Let in the next runs of an admission key: one before them has ended. Safe to call twice."""
    front = front_of(key)
    return admit_runs(*front) if front is not None else []


@dataclass(slots=True)
class Look:
    """What one transaction of admission did."""

    hints: list[Hint] = field(default_factory=list)
    #: Another look may find more to do.
    more: bool = False
    #: Runs of the same job whose turn has come by it.
    ripe: list[int] = field(default_factory=list)
    limited: bool = False
    #: The job has no room left.
    full: bool = False


def _admit_batch(job_id: int, chosen: Sequence[int] | None = None) -> Look:
    job = lock_job(job_id, limit=Job.objects.values_list("concurrency_limit", flat=True).get(pk=job_id))
    waiting = JobRun.objects.filter(job_id=job_id, state=RunState.PENDING)
    if job.is_paused:
        return Look(ripe=_hold_paused(job_id, waiting.filter(pk__in=chosen)) if chosen is not None else [])
    if chosen is not None and job.limit is None:
        waiting = waiting.filter(pk__in=chosen)
    else:
        if chosen is not None:
            # Their key may have let them go; if not, the look finds it out.
            waiting.filter(pk__in=chosen, reason=KEY_TURN).update(reason="")
        waiting = waiting.exclude(reason=KEY_TURN)
    found = list(waiting.order_by("priority", "id").values_list("pk", "admission_key")[: BATCH + 1])
    if not found:
        return Look(limited=job.limit is not None)
    more_than_batch = len(found) > BATCH
    found = found[:BATCH]
    lock_keys({key for _, key in found if key is not None})
    pending = _lock_runs(job, found)
    before = {run.pk: (run.state, run.reason) for run in pending}
    look = _decide(job, pending)
    changed = any(before[run.pk] != (run.state, run.reason) for run in pending if run.reason != JOB_FULL)
    look.limited = job.limit is not None
    look.more = (more_than_batch and changed) or bool(look.ripe)
    return look


def _lock_runs(job: JobRow, found: Sequence[tuple[int, UUID | None]]) -> list[JobRun]:
    """Lock and return the runs that are still pending, in the order in which they were found.

    Several processes may admit runs of a job without a limit: what another one has in its hands is left to it. A run
    with a key is waited for: it is locked under its key alone, or by somebody who is done with it at once.
    """
    runs = JobRun.objects.filter(state=RunState.PENDING).defer("event", "parameters").order_by("pk")
    plain = runs.filter(pk__in=[id for id, key in found if key is None])
    keyed = [id for id, key in found if key is not None]
    rows = {run.pk: run for run in plain.select_for_update(of=("self",), no_key=True, skip_locked=job.limit is None)}
    if keyed:
        locked = runs.filter(pk__in=keyed).select_for_update(of=("self",), no_key=True)
        rows |= {run.pk: run for run in locked}
    return [rows[id] for id, _ in found if id in rows]


def decide_locked(job: JobRow, pending: Sequence[JobRun]) -> list[Hint]:
    """Decide pending runs of a job whose row the caller has locked; returns hints for after the commit."""
    if job.is_paused:
        return []
    lock_keys({run.admission_key for run in pending if run.admission_key is not None})
    return _decide(job, pending).hints


def _decide(job: JobRow, pending: Sequence[JobRun]) -> Look:
    keyed = {run.admission_key for run in pending if run.admission_key is not None}
    if job.limit is None and not keyed and all(run.expires_at is None for run in pending):
        return Look([hint for run in pending for hint in start_locked(run)])
    now = database_now()
    looked_at = pending
    for run in pending:
        if run.expires_at is not None and run.expires_at <= now:
            move_run(run, RunState.CANCELLED, now=now, reason=EXPIRED, cause="admission")
    pending = whose_turn([run for run in pending if run.state == RunState.PENDING], now=now)
    if job.limit is None:
        look = Look([hint for run in pending for hint in start_locked(run)])
    else:
        look = _within_limit(job, job.limit, pending, now)
    # A key that lets several run at once, or one of whose runs ended here, may have more to start.
    moved = {
        run.admission_key
        for run in looked_at
        if run.admission_key is not None and ((run.admission_limit or 1) > 1 or run.state in RUN_FINAL)
    }
    look.ripe = [run_id for job_id, run_id in ripen(moved) if job_id == job.id]
    return look


def _within_limit(job: JobRow, limit: int, pending: Sequence[JobRun], now: datetime) -> Look:
    """Start what the job's own limit lets in; what does not fit waits, is skipped, or replaces what runs."""
    hints: list[Hint] = []
    running = JobRun.objects.filter(job_id=job.id, state=RunState.RUNNING)
    free = limit - running.count()
    if job.when_full == "cancel_running":
        # The newest runs win; what they replace, waiting or running, is stopped.
        pending = sorted(pending, key=lambda run: run.pk)
        for run in pending[:-limit]:
            move_run(run, RunState.CANCELLED, now=now, reason="concurrency_replaced", cause="admission")
        pending = pending[-limit:]
        # Those that were asked before make room too: admitting again stops no further run.
        stopping = running.filter(stop_requested_at__isnull=False).count()
        surplus = max(0, len(pending) - free - stopping)
        for old in running.filter(stop_requested_at__isnull=True).order_by("id")[:surplus]:
            hints += stop_run_locked(old.pk, state=RunState.CANCELLED, reason="concurrency_replaced", cause="admission")
        free = limit - running.count()
    held = []
    for run in pending:
        if free > 0:
            hints += start_locked(run)
            # A re-run with nothing left to run has ended already, and takes no room.
            free -= run.state not in RUN_FINAL
        elif job.when_full == "skip":
            move_run(run, RunState.CANCELLED, now=now, reason="concurrency_skip", cause="admission")
        elif run.reason != JOB_FULL:
            held.append(run)
    _hold([run.pk for run in held], JOB_FULL)
    for run in held:
        run.reason = JOB_FULL
    return Look(hints, full=free <= 0 and job.when_full == "queue")


def _hold_all(run_ids: Sequence[int]) -> None:
    """Give runs that nobody looked at the reason that their job is full."""
    for start in range(0, len(run_ids), 500):
        chunk = run_ids[start : start + 500]
        in_transaction(lambda: _hold(chunk, JOB_FULL))  # noqa: B023  called at once


def _hold(run_ids: Sequence[int], reason: str) -> None:
    if run_ids:
        rows = JobRun.objects.filter(pk__in=run_ids, state=RunState.PENDING).exclude(reason=KEY_TURN)
        rows.exclude(reason=reason).update(reason=reason)


def _hold_paused(job_id: int, waiting: QuerySet[JobRun]) -> list[int]:
    """Let runs of a paused job wait, or drop those that would rather not; returns those whose turn has come by it."""
    # Those that waited for their turn too: who asks for them knows that it has come, or they find it out when resumed.
    held = waiting.filter(drop_when_paused=False, reason__in=["", KEY_TURN])
    held.update(reason=JOB_PAUSED)
    dropped = list(waiting.filter(drop_when_paused=True).order_by("pk"))
    if not dropped:
        return []
    keys = {run.admission_key for run in dropped if run.admission_key is not None}
    lock_keys(keys)
    now = database_now()
    for run in dropped:
        move_run(run, RunState.CANCELLED, now=now, reason=DROPPED_WHILE_PAUSED, cause="admission")
    return [run_id for job, run_id in ripen(keys) if job == job_id]


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
