"""Pending runs as a whole: how many nobody has looked at, which are too old, which nobody wants any more."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.db.models import Count, Min, QuerySet

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.admission import admit_key
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_run
from orchestrator.models import JobRun
from orchestrator.planning.holds import EXPIRED
from orchestrator.states import RunState

#: Runs ended in one transaction.
BATCH = 500


def unlaunched() -> tuple[int, float]:
    """Return how many pending runs nobody has looked at yet, and the age of the oldest in seconds (0: none)."""

    def work() -> tuple[int, float]:
        waiting = JobRun.objects.filter(state=RunState.PENDING, reason="")
        found = waiting.order_by().aggregate(count=Count("pk"), oldest=Min("created_at"))
        oldest = found["oldest"]
        return found["count"], 0.0 if oldest is None else max(0.0, (database_now() - oldest).total_seconds())

    return in_transaction(work)


def queued(most: int) -> int:
    """Return how many runs are pending, for whatever reason; counts no further than one beyond `most`."""
    return JobRun.objects.filter(state=RunState.PENDING).order_by()[: most + 1].count()


def cancel_pending(tenant_id: int, *, prefix: str, reason: str, by: str) -> int:
    """End pending runs whose trigger key begins so; returns how many. Their keys go on with what is left."""
    done, last = 0, 0
    while True:
        runs = JobRun.objects.filter(
            tenant_id=tenant_id, state=RunState.PENDING, trigger_key__startswith=prefix, pk__gt=last
        )
        ids = list(runs.order_by("pk").values_list("pk", flat=True)[:BATCH])
        if not ids:
            return done
        last = ids[-1]
        done += in_transaction(lambda: _end(ids, reason=reason, cause="cancel", by=by))  # noqa: B023  called at once


def _end(ids: list[int], *, reason: str, cause: str, by: str) -> int:
    rows = JobRun.objects.filter(pk__in=ids, state=RunState.PENDING).defer("event", "parameters")
    locked = rows.select_for_update(of=("self",), no_key=True).order_by("pk")
    now = database_now()
    return sum(move_run(run, RunState.CANCELLED, now=now, reason=reason, cause=cause, by=by) for run in locked)


def expire(guard: Callable[[], bool]) -> tuple[int, list[Hint]]:
    """End pending runs whose time is over, a batch of them; returns how many, and hints of those that follow."""

    def work() -> tuple[int, set[UUID]]:
        if not guard():
            return 0, set()
        now = database_now()
        late: QuerySet[JobRun] = JobRun.objects.filter(state=RunState.PENDING, expires_at__lte=now)
        late = late.defer("event", "parameters").order_by("expires_at")
        rows = list(late.select_for_update(of=("self",), no_key=True, skip_locked=True)[:BATCH])
        for run in rows:
            move_run(run, RunState.CANCELLED, now=now, reason=EXPIRED, cause="timer")
        return len(rows), {run.admission_key for run in rows if run.admission_key is not None}

    count, keys = in_transaction(work)
    return count, [hint for key in keys for hint in admit_key(key)]
