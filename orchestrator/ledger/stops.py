"""Stop is a request: what does not run ends at once, what runs is asked to; the run ends with its last attempt."""

from __future__ import annotations

from orchestrator.canvas.binding import Hint
from orchestrator.ledger import locks
from orchestrator.ledger.transitions import database_now, move_run, move_tasks, record
from orchestrator.models import JobRun, TaskRun
from orchestrator.states import RUN_FINAL, TASK_IDLE, TASK_OPEN, RunState, TaskState


def stop_run_locked(run_id: int, *, state: RunState, reason: str, cause: str, by: str = "") -> list[Hint]:
    """Stop a run inside the caller's transaction: `state` is cancelled or timed_out. Safe to call twice.

    Locks the run, then its open task runs by id. Returns hints of task runs that get the locks this frees. A run
    without a running attempt is final on return; its job's next run is admitted by the caller.
    """
    run = JobRun.objects.select_for_update(of=("self",), no_key=True).get(pk=run_id)
    if run.state in RUN_FINAL:
        return []
    now = database_now()
    if run.state == RunState.PENDING:
        move_run(run, state, now=now, reason=reason, cause=cause, by=by)
        return []
    rows = list(
        TaskRun.objects.select_for_update(of=("self",)).filter(run_id=run_id, state__in=TASK_OPEN).order_by("id")
    )
    idle = [row for row in rows if row.state in TASK_IDLE]
    # planned_at: what follows them ends here too, so there is nothing left to plan.
    move_tasks(idle, TaskState(state), now=now, reason=reason, cause=cause, by=by, planned_at=now)
    hints = locks.release_idle(idle, now=now)
    running = [row.pk for row in rows if row.state == TaskState.RUNNING]
    if not running:
        fields = {"stop_requested_at": now, "stop_state": state, "stop_reason": reason[:500]}
        move_run(run, state, now=now, reason=reason, cause=cause, by=by, **fields)
        return hints
    if run.stop_requested_at is None:
        JobRun.objects.filter(pk=run_id).update(stop_requested_at=now, stop_state=state, stop_reason=reason[:500])
        record(
            subject="run", subject_id=run_id, run_id=run_id, old=run.state, new=run.state, now=now,
            reason=f"stop requested: {reason}", cause=cause, by=by,
        )  # fmt: skip
    TaskRun.objects.filter(pk__in=running, stop_requested_at__isnull=True).update(
        stop_requested_at=now, stop_reason=reason[:500]
    )
    return hints
