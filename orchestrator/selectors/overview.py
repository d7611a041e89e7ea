"""How the whole ledger stands: what a scrape of the metrics and the checks of `doctor` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Count, F, Min
from django.utils import timezone

from orchestrator.models import JobRun, LaneWorker, Task, TaskRun
from orchestrator.planning.patience import WORKER_LIVES
from orchestrator.states import RUN_OPEN, TaskState


@dataclass(frozen=True, slots=True)
class Overview:
    """Open runs by state, tasks that are ready or running, and how long the oldest ready task has waited."""

    open_runs: Mapping[str, int]
    ready_tasks: int
    running_tasks: int
    oldest_ready_seconds: float


def overview() -> Overview:
    """Read the overview, in three queries over indexes of what is open."""
    counted = JobRun.objects.filter(state__in=RUN_OPEN).values_list("state").annotate(Count("pk")).order_by()
    ready = TaskRun.objects.filter(state=TaskState.READY).aggregate(count=Count("pk"), oldest=Min("ready_at"))
    running = TaskRun.objects.filter(state=TaskState.RUNNING).count()
    waited = (timezone.now() - ready["oldest"]).total_seconds() if ready["oldest"] else 0.0
    return Overview(
        open_runs={**{str(state): 0 for state in sorted(RUN_OPEN)}, **dict(counted)},
        ready_tasks=ready["count"],
        running_tasks=running,
        oldest_ready_seconds=max(0.0, waited),
    )


def silent_lanes() -> dict[str, int]:
    """Return the lanes that no live worker takes from though jobs send work there, each with the number of such jobs."""
    live = LaneWorker.objects.filter(seen_at__gte=timezone.now() - WORKER_LIVES).values("lane")
    tasks = Task.objects.filter(version=F("version__job__latest_version"), version__job__archived_at=None)
    counted = tasks.exclude(pool__in=live).values_list("pool").annotate(jobs=Count("version__job", distinct=True))
    return dict(counted.order_by("pool"))
