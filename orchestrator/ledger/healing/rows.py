"""What the steps of healing share: how much at once, which rows, and when a hint counts as old."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from orchestrator.conf import options
from orchestrator.models import TaskRun
from orchestrator.planning.patience import DOUBLINGS, pause_after
from orchestrator.states import RunState

#: Asked at the start of each transaction: whether this process still leads. Once it says no, nothing is written.
Guard = Callable[[], bool]
#: Rows that one step takes at a time.
BATCH = 500

READY_RUNS = Q(run__state=RunState.RUNNING, run__paused_at__isnull=True, run__stop_requested_at__isnull=True)


def stale(now: datetime) -> Q:
    """Hints whose pause is over: 15 s after the first, 30 s after the second … at most five minutes.

    By their count in the query, so that a fresh loss is not hidden behind old ones whose turn comes later.
    """
    first = timedelta(seconds=options().hint_seconds)
    stale = Q(hint_count__lte=1, hint_published_at__lt=now - first)
    for count in range(2, DOUBLINGS + 2):
        counted = Q(hint_count=count) if count <= DOUBLINGS else Q(hint_count__gt=DOUBLINGS)
        stale |= counted & Q(hint_published_at__lt=now - pause_after(count, first=first))
    return stale


def locked(rows: QuerySet[TaskRun]) -> list[TaskRun]:
    return list(rows.select_related("run").select_for_update(of=("self",), skip_locked=True)[:BATCH])
