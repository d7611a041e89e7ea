"""Claim, renew, settle: what an attempt may say about itself, under its lease and fencing token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.conf import options
from orchestrator.errors import StaleToken
from orchestrator.ledger import locks
from orchestrator.ledger.advance import Advanced, advance_run, plan_decided
from orchestrator.ledger.finish import after_finish, finish_if_over, finish_locked
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import Claimed, Ending, RunFacts, RunRow
from orchestrator.ledger.transactions import in_transaction, kept_cursor
from orchestrator.ledger.transitions import database_now, move_tasks
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import Attempt, TaskRun
from orchestrator.states import TASK_FINAL, TASK_IDLE, RunState, TaskState


class NotClaimed(Enum):
    """Why a message found nothing to do."""

    OVER = "over"  # the task run is final: chain and chord go on
    NOT_NOW = "not_now"  # early, double or paused: the timer or the reconciler publishes it when it is time


def claim(*, task_run_id: int, worker: str) -> Claimed | NotClaimed:
    """Claim a task run for one attempt. Two claims never both succeed; a lost one says why."""
    for _ in range(3):
        claimed = _claim(task_run_id, worker)
        if claimed is not None:
            return claimed
        found = in_transaction(lambda: _look(task_run_id, worker))
        if found is not None:
            return found
    return NotClaimed.NOT_NOW


def recover(*, task_run_id: int, worker: str) -> Claimed | None:
    """Return the running claim of a worker that does not know whether its claim was committed."""
    row = (
        TaskRun.objects.select_related("run", "task")
        .filter(pk=task_run_id, state=TaskState.RUNNING, worker=worker, lease_until__isnull=False)
        .first()
    )
    if row is None:
        return None
    attempt = Attempt.objects.filter(task_run=row, token=row.fencing_token, worker=worker).first()
    if attempt is None:
        return None
    now = in_transaction(database_now)
    return Claimed(
        run_id=row.run_id,
        task_run_id=row.pk,
        position=row.position,
        token=row.fencing_token,
        number=attempt.number,
        attempt_id=attempt.pk,
        version_id=row.run.version_id,
        fragment_id=row.fragment_id,
        lock_count=row.lock_count,
        timeout_seconds=row.task.timeout_seconds,
        waited_seconds=0.0,
        elapsed_seconds=max(0.0, (now - attempt.started_at).total_seconds()),
        claimed_at=now,
    )


def _claim(task_run_id: int, worker: str) -> Claimed | None:
    if connection.vendor == "postgresql":
        # One statement needs no transaction around it: three round trips become one.
        return _claim_with(kept_cursor(), task_run_id, worker)

    def work() -> Claimed | None:
        with connection.cursor() as cursor:
            return _claim_with(cursor, task_run_id, worker)

    return in_transaction(work)


def _claim_with(cursor: object, task_run_id: int, worker: str, *, row_is_locked: bool = False) -> Claimed | None:
    found: Claimed | None = statements().claim(
        cursor,
        task_run_id=task_run_id,
        worker=worker,
        lease_seconds=options().lease_seconds,
        row_is_locked=row_is_locked,
    )
    return found


def _look(task_run_id: int, worker: str) -> Claimed | NotClaimed | None:
    """Say why a claim found no row, or claim one that needs locks; None: it is claimable now, try again."""
    row = TaskRun.objects.select_related("run").select_for_update(of=("self",)).filter(pk=task_run_id).first()
    if row is None or row.state in TASK_FINAL:
        return NotClaimed.OVER
    run = row.run
    if run.state != RunState.RUNNING or run.stop_requested_at:
        if row.state in TASK_IDLE and run.state not in (RunState.PENDING, RunState.RUNNING):
            now = database_now()
            move_tasks([row], TaskState.CANCELLED, now=now, reason="the run has ended", cause="claim", planned_at=now)
            return NotClaimed.OVER
        return NotClaimed.NOT_NOW
    claimable = (TaskState.READY, TaskState.DEFERRED)
    if run.paused_at is not None or row.state not in claimable:
        return NotClaimed.NOT_NOW
    if not row.lock_count:
        return None if row.state == TaskState.READY else NotClaimed.NOT_NOW  # not due yet
    with connection.cursor() as cursor:
        # Finds nothing unless all its locks are granted: whoever grants the last one publishes it.
        return _claim_with(cursor, task_run_id, worker, row_is_locked=True) or NotClaimed.NOT_NOW


def run_facts(run_id: int) -> RunFacts:
    """Return what the attempts of a run share."""
    with connection.cursor() as cursor:
        facts: RunFacts = statements().run_facts(cursor, run_id=run_id)
        return facts


def renew(leases: Mapping[int, int]) -> dict[int, str | None]:
    """Renew the leases of this process, task run id → token, in one statement.

    Returns those still held, each with the reason of a requested stop or None. One that is missing is lost.
    """

    def work() -> dict[int, str | None]:
        with connection.cursor() as cursor:
            return dict(statements().renew(cursor, leases=leases, lease_seconds=options().lease_seconds))

    return in_transaction(work)


@dataclass(frozen=True, slots=True)
class Settled:
    """An outcome that is written, and the hints to publish now."""

    hints: tuple[Hint, ...] = ()
    #: The task run is final; otherwise it waits for a retry or to go on, and its message advances neither chain nor chord.
    final: bool = True


def settle(claimed: Claimed, ending: Ending, *, worker: str, follows: int | None = None) -> Settled:
    """Write the outcome of an attempt and plan what follows, in one transaction.

    A chord's header leaves the planning to `advance`: one plan instead of n. Raises StaleToken if the lease moved on.
    Safe to call twice with the same ending. A retry or deferral after a requested stop becomes what the stop asked for:
    the caller passes that as `ending` when StopRequested is raised.
    """
    version = compiled_version(claimed.version_id)
    is_leaf = not version.graph.downstream[claimed.position]
    final = ending.final
    # Nothing is planned and nothing is freed: a deferred attempt keeps its locks.
    if ending.deferred or (not claimed.lock_count and (claimed.fragment_id is not None or not final)):
        return _settle_alone(claimed, ending, worker)
    if ending.task_state == TaskState.SUCCEEDED and not claimed.lock_count and claimed.position in version.many_joins:
        early = _settle_one_of_many(claimed, ending, worker, version)
        if early is not None:
            return early

    run: RunRow | None = None
    finished = False
    written = True
    freed: list[Hint] = []

    def work() -> Advanced:
        nonlocal run, finished, freed, written
        with connection.cursor() as cursor:
            # Lock order: the run before its tasks. Of two last leaves the second sees the first one's end.
            run = statements().lock_run(cursor, run_id=claimed.run_id) if is_leaf and final else None
            left: list[tuple[int, int]] | None = None
            if final and not is_leaf:
                left = statements().settle_and_decide(
                    cursor,
                    run_id=claimed.run_id,
                    task_run_id=claimed.task_run_id,
                    token=claimed.token,
                    worker=worker,
                    ending=_storable(ending, planned=True),
                    positions=version.graph.downstream[claimed.position],
                )
                written = left is not None
            else:
                written = _write(cursor, claimed, ending, worker, planned=final)
            if not written:
                # Written before (the connection died in COMMIT), or fenced off.
                _confirm(claimed, ending)
                return Advanced(hints=tuple(_hints_after(claimed, version)))
            step = Advanced()
            if left is not None:
                step = plan_decided(
                    cursor,
                    run_id=claimed.run_id,
                    version=version,
                    settled={claimed.position: ending.task_state},
                    left=left,
                    follows=follows,
                )
            if claimed.lock_count:
                freed = locks.release(task_run_ids=[claimed.task_run_id])
            finished = run is not None and finish_locked(cursor, run)
            return step

    step = in_transaction(work)
    hints = [*step.hints, *freed]
    if not written and final:
        # Whoever wrote it may not have lived to go on from there.
        hints += advance_run(claimed.run_id, headers=False)
        hints += finish_if_over(claimed.run_id, again=True)
    elif step.closed:
        hints += advance_run(claimed.run_id)
    elif step.dead_end:
        hints += finish_if_over(claimed.run_id)
    if finished and run is not None:
        hints += after_finish(run)
    return Settled(tuple(hints), final)


def _hints_after(claimed: Claimed, version: CompiledVersion) -> list[Hint]:
    """Return the hints that the first writing of an outcome may not have lived to publish; double ones are harmless."""
    rows = TaskRun.objects.filter(
        run_id=claimed.run_id, position__in=version.graph.downstream[claimed.position], state=TaskState.READY
    )
    return hints_of([row for row in rows.select_related("run").order_by("pk") if locks.are_granted(row)])


def _settle_alone(claimed: Claimed, ending: Ending, worker: str) -> Settled:
    """Settle without planning: one statement."""

    def work() -> bool:
        return _write(kept_cursor(), claimed, ending, worker, planned=False)

    written = work() if connection.vendor == "postgresql" else in_transaction(work)
    if not written:
        _confirm(claimed, ending)
    return Settled(final=ending.final)


def _settle_one_of_many(claimed: Claimed, ending: Ending, worker: str, version: CompiledVersion) -> Settled | None:
    """Settle a success that starts nothing, with one statement; None if it does, or if the database has no such one."""
    if connection.vendor != "postgresql":
        return None
    waiting = statements().settle_one_of_many(
        kept_cursor(),
        run_id=claimed.run_id,
        task_run_id=claimed.task_run_id,
        token=claimed.token,
        worker=worker,
        ending=ending,
        positions=version.graph.downstream[claimed.position],
    )
    if waiting is None:
        return None
    # All that follows is over, by a failure beside this task or a cancellation: the run may be, too.
    return Settled(() if waiting else tuple(finish_if_over(claimed.run_id)))


def _write(cursor: object, claimed: Claimed, ending: Ending, worker: str, *, planned: bool) -> bool:
    written: bool = statements().settle(
        cursor,
        task_run_id=claimed.task_run_id,
        token=claimed.token,
        worker=worker,
        ending=_storable(ending, planned=planned),
    )
    return written


def _storable(ending: Ending, *, planned: bool) -> Ending:
    if planned == ending.planned and len(ending.reason) <= 500:
        return ending
    return replace(ending, reason=ending.reason[:500], planned=planned)


class StopRequested(Exception):
    """Control flow: a retry or deferral was to be written, but a stop is requested; settle what the stop asks for."""

    def __init__(self, reason: str, state: TaskState) -> None:
        self.reason = reason
        self.state = state


def _confirm(claimed: Claimed, ending: Ending) -> None:
    """Return if the attempt of this token already ended so; else raise StopRequested or StaleToken."""
    row = TaskRun.objects.select_related("run").filter(pk=claimed.task_run_id).first()
    if row and row.fencing_token == claimed.token and row.state == TaskState.RUNNING and row.stop_requested_at:
        raise StopRequested(row.stop_reason, TaskState(row.run.stop_state or TaskState.CANCELLED))
    attempt = Attempt.objects.filter(task_run_id=claimed.task_run_id, token=claimed.token).first()
    if attempt is None or attempt.state != ending.attempt_state:
        raise StaleToken
