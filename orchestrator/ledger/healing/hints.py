"""Ready task runs whose message is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.db.models import Count, Exists, F, Max, OuterRef, Q

from orchestrator.canvas import binding
from orchestrator.conf import options
from orchestrator.ledger import locks
from orchestrator.ledger.healing.rows import BATCH, READY_RUNS, Guard, locked, stale
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now
from orchestrator.models import Attempt, LockRequest, TaskRun
from orchestrator.states import TASK_IDLE, TaskState

logger = logging.getLogger(__name__)

#: A hint is lost for certain once its lane took one that was published so much later.
OVERTAKEN_BY = timedelta(seconds=60)
#: Attempts looked at to see what a lane took lately.
LATELY = timedelta(minutes=10)
#: Task runs with a message in their lane: one that needs locks gets its own when they are granted.
PUBLISHED = Q(lock_count=0, hint_published_at__isnull=False) | Exists(
    LockRequest.objects.filter(task_run=OuterRef("pk"), granted_at__isnull=False, release_at__isnull=True)
)


def lost_hints(guard: Guard) -> int:
    """Publish ready task runs again whose message cannot be waiting in its lane any more.

    A long healthy queue is not a lost hint: a hint is lost when its lane is empty or holds less than half of the task
    runs that are ready for it, or when the lane has taken one that was published much later. So without a worker nothing
    is published twice, and with one nothing waits for ever.
    """

    pools = in_transaction(lambda: _pools_with_old_hints() if guard() else frozenset())
    if not pools:
        return 0
    # Outside the transaction: a broker that is away or frozen answers when it likes.
    depths = _lane_depths(pools)

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        rows = _stale_hints(now)
        if not rows:
            return 0, []
        thin = _thin_lanes(depths)
        taken = _latest_taken({row.task.pool for row in rows}, now)
        lost = [
            row
            for row in rows
            if row.task.pool in thin
            or (
                row.hint_published_at is not None
                and taken.get(row.task.pool, row.hint_published_at) > row.hint_published_at + OVERTAKEN_BY
            )
        ]
        TaskRun.objects.filter(pk__in=[row.pk for row in lost]).update(
            hint_published_at=now, hint_count=F("hint_count") + 1
        )
        return len(lost), hints_of(lost)

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _stale_hints(now: datetime) -> list[TaskRun]:
    """Ready task runs with an old hint, the pause doubling with each; the locks of those that need some are granted."""
    first = timedelta(seconds=options().hint_seconds)
    rows = locked(
        TaskRun.objects.filter(READY_RUNS, stale(now), state=TaskState.READY)
        .select_related("task")
        .order_by("hint_published_at")
    )
    granted = list(
        TaskRun.objects.filter(
            READY_RUNS, state=TaskState.READY, lock_count__gt=0, hint_published_at__isnull=True,
            lock_requests__granted_at__lt=now - first, lock_requests__release_at__isnull=True,
        ).select_related("run", "task").distinct()[:BATCH]
    )  # fmt: skip
    return [row for row in (*rows, *granted) if locks.are_granted(row)]


def _pools_with_old_hints() -> frozenset[str]:
    old = database_now() - timedelta(seconds=options().hint_seconds)
    rows = TaskRun.objects.filter(READY_RUNS, PUBLISHED, state=TaskState.READY)
    return frozenset(rows.exclude(hint_published_at__gte=old).values_list("task__pool", flat=True).distinct())


def _lane_depths(pools: Iterable[str]) -> dict[str, int]:
    """The messages that wait in each lane, without lanes that cannot be asked."""
    depths = {}
    for pool in pools:
        try:
            depths[pool] = binding.lane_depth(pool)
        except binding.BROKER_ERRORS as error:
            # Nothing can be published into it now either; the next round asks again.
            logger.info("lane not measured", extra={"pool": pool, "error": str(error)})
    return depths


def _thin_lanes(depths: Mapping[str, int]) -> set[str]:
    """Lanes that hold none or less than half of the messages for task runs that are ready.

    Not simply fewer: a worker that has taken a message and not claimed yet would let a whole backlog be doubled.
    """
    waiting = dict(
        TaskRun.objects.filter(READY_RUNS, PUBLISHED, state=TaskState.READY, task__pool__in=list(depths))
        .values_list("task__pool")
        .annotate(n=Count("id"))
    )
    return {pool for pool, depth in depths.items() if not depth or 2 * depth < waiting.get(pool, 0)}


def _latest_taken(pools: Iterable[str], now: datetime) -> dict[str, datetime]:
    """The newest hint that each lane has taken lately."""
    return dict(
        # One that waits again has a newer hint, which nobody has taken.
        Attempt.objects.filter(started_at__gt=now - LATELY, task_run__task__pool__in=set(pools), number=1)
        .exclude(task_run__state__in=TASK_IDLE)
        .values_list("task_run__task__pool")
        .annotate(newest=Max("task_run__hint_published_at"))
    )
