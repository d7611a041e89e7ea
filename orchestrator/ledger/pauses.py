"""Pause of a run is a column: claims are refused, nothing running is touched; resume publishes what is ready."""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import Q

from orchestrator.canvas.binding import Hint
from orchestrator.ledger import locks
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, record
from orchestrator.models import JobRun, TaskRun
from orchestrator.states import RUN_FINAL, TaskState

#: Called with the run as it was, in the transaction that changes it.
Then = Callable[[JobRun], None]


def pause_run(run_id: int, *, by: str, reason: str, then: Then) -> None:
    """Set the pause of an open run, `then` append what is to be said of it. Safe to call twice: the first stays."""

    def work() -> None:
        run = JobRun.objects.select_for_update(no_key=True).get(pk=run_id)
        if run.state in RUN_FINAL or run.paused_at is not None:
            return
        now = database_now()
        JobRun.objects.filter(pk=run_id).update(paused_at=now, paused_by=by[:200], pause_reason=reason[:500])
        record(
            subject="run", subject_id=run_id, run_id=run_id, old=run.state, new=run.state, now=now,
            reason=f"paused: {reason}" if reason else "paused", cause="pause", by=by,
        )  # fmt: skip
        then(run)

    in_transaction(work)


def resume_run(run_id: int, *, by: str, reason: str, then: Then) -> list[Hint]:
    """Clear the pause and return the hints of the run's tasks that are ready or due. Safe to call twice."""

    def work() -> list[Hint]:
        run = JobRun.objects.select_for_update(no_key=True).get(pk=run_id)
        if run.state in RUN_FINAL or run.paused_at is None:
            return []
        now = database_now()
        JobRun.objects.filter(pk=run_id).update(paused_at=None, paused_by="", pause_reason="")
        record(
            subject="run", subject_id=run_id, run_id=run_id, old=run.state, new=run.state, now=now,
            reason=f"resumed: {reason}" if reason else "resumed", cause="resume", by=by,
        )  # fmt: skip
        then(run)
        due = Q(state__in=[TaskState.RETRY_WAITING, TaskState.DEFERRED], due_at__lte=now)
        open_ = TaskRun.objects.filter(Q(state=TaskState.READY) | due, run_id=run_id).select_related("run")
        # One whose locks are not granted is left to the grant, or to the timer that asks for them.
        rows = [row for row in open_.select_for_update(of=("self",)).order_by("pk") if locks.are_granted(row)]
        TaskRun.objects.filter(pk__in=[row.pk for row in rows]).update(hint_published_at=now, hint_count=1)
        return hints_of(rows)

    return in_transaction(work)
