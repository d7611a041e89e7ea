"""Moves of single rows outside the hot path: compare-and-set and Transition, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import connection

from orchestrator.errors import IllegalTransition
from orchestrator.ledger.counts import count_ended
from orchestrator.ledger.statements import statements
from orchestrator.models import Attempt, JobRun, TaskRun, Transition
from orchestrator.states import RUN_ARROWS, RUN_FINAL, TASK_ARROWS, TASK_FINAL, AttemptState, RunState, TaskState


def database_now() -> datetime:
    """Return the moment of this transaction on the database's clock; read it once and hand it down."""
    with connection.cursor() as cursor:
        moment: datetime = statements().database_now(cursor)
        return moment


def move_run(
    run: JobRun, to: RunState, *, now: datetime, reason: str = "", cause: str = "", by: str = "", **fields: object
) -> bool:
    """Move a run from the state it was read in; False if another moved it first. Raises IllegalTransition."""
    old = RunState(run.state)
    if to not in RUN_ARROWS[old]:
        raise IllegalTransition(f"a run cannot go from {old} to {to}")
    if to in RUN_FINAL:
        fields["ended_at"] = now
    reason = reason[:500]
    if not JobRun.objects.filter(pk=run.pk, state=old).update(state=to, reason=reason, **fields):
        return False
    for name, value in {"state": to, "reason": reason, **fields}.items():
        setattr(run, name, value)
    record(subject="run", subject_id=run.pk, run_id=run.pk, old=old, new=to, now=now, reason=reason, cause=cause, by=by)
    if to in RUN_FINAL:
        count_ended(to)
    return True


def move_tasks(
    rows: Iterable[TaskRun], to: TaskState, *, now: datetime, reason: str, cause: str, by: str = "", **fields: object
) -> int:
    """Move task runs that the caller has locked to one state, each from the state it was read in.

    A deferred attempt ends with its task run: timed out with one that is, else cancelled, since it did not end itself.
    """
    rows = list(rows)
    for row in rows:
        if to not in TASK_ARROWS[TaskState(row.state)]:
            raise IllegalTransition(f"a task run cannot go from {row.state} to {to}")
    if to in TASK_FINAL:
        fields["ended_at"] = now
        fields["deadline_at"] = None
        end_deferred(rows, AttemptState.TIMED_OUT if to == TaskState.TIMED_OUT else AttemptState.CANCELLED, now=now,
                     reason=reason)  # fmt: skip
    for start in range(0, len(rows), 500):
        TaskRun.objects.filter(pk__in=[row.pk for row in rows[start : start + 500]]).update(
            state=to, reason=reason[:500], **fields
        )
    Transition.objects.bulk_create(
        [
            Transition(
                at=now,
                subject="task_run",
                subject_id=row.pk,
                run_id=row.run_id,
                from_state=row.state,
                to_state=to,
                reason=reason[:500],
                cause=cause,
                by=by,
            )
            for row in rows
        ],
        batch_size=500,
    )
    return len(rows)


def end_deferred(rows: Iterable[TaskRun], to: AttemptState, *, now: datetime, reason: str) -> None:
    """End the open attempts of those of the rows that wait outside a worker, with their locks or for them."""
    ids = [row.pk for row in rows if row.state != TaskState.RUNNING and row.deadline_at is not None]
    kind = "timeout" if to == AttemptState.TIMED_OUT else "stopped"
    for start in range(0, len(ids), 500):
        Attempt.objects.filter(task_run_id__in=ids[start : start + 500], state=AttemptState.RUNNING).update(
            state=to, reason=reason[:500], failure_kind=kind, ended_at=now
        )


def record(
    *,
    subject: str,
    subject_id: int,
    run_id: int | None,
    old: str,
    new: str,
    now: datetime,
    reason: str = "",
    cause: str = "",
    by: str = "",
) -> None:
    """Append one fact."""
    Transition.objects.create(
        at=now,
        subject=subject,
        subject_id=subject_id,
        run_id=run_id,
        from_state=old,
        to_state=new,
        reason=reason[:500],
        cause=cause[:100],
        by=by[:200],
    )
