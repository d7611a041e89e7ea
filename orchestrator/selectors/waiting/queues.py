"""What a ready task may wait for: its locks, a worker of its lane, a slot, its turn."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, Max, OuterRef, Q, QuerySet, Sum

from orchestrator.conf import options
from orchestrator.models import LaneWorker, LockRequest, TaskRun
from orchestrator.planning.patience import WORKER_LIVES, pause_after
from orchestrator.selectors.waiting.reasons import MOST_NAMED, WaitReason, at, counted, listed, number
from orchestrator.states import RunState, TaskState

_GRANTED = LockRequest.objects.filter(task_run=OuterRef("pk"), granted_at__isnull=False, release_at__isnull=True)
#: Ready task runs whose message is in their lane: one that needs locks gets its own when they are granted.
_IN_LANE = Q(lock_count=0, hint_published_at__isnull=False) | Q(Exists(_GRANTED), lock_count__gt=0)
_RUN_GOES_ON = Q(run__state=RunState.RUNNING, run__paused_at__isnull=True, run__stop_requested_at__isnull=True)


def lock_reasons(row: TaskRun) -> tuple[list[WaitReason], datetime | None]:
    """Return the locks that a task run waits for, and otherwise when it got them all. At most 3 locks are looked into."""
    requests = list(LockRequest.objects.filter(task_run=row).select_related("lock").order_by("lock__name"))
    waiting = [request for request in requests if request.granted_at is None]
    if not waiting:
        return [], max((request.granted_at for request in requests if request.granted_at), default=None)
    reasons = [reason for request in waiting[:MOST_NAMED] if (reason := _lock_reason(row, request)) is not None]
    if not reasons:
        names = ", ".join(request.lock.name for request in waiting)
        reasons = [
            WaitReason(
                "lock_free",
                f"{row.task.name} is next for {names}, which is free: the reconciler grants it in its next round",
                waiting[0].asked_at,
                {"locks": [request.lock.name for request in waiting]},
            )
        ]
    return reasons, None


def _lock_reason(row: TaskRun, request: LockRequest) -> WaitReason | None:
    """Say who stands between a task run and one lock; None if nobody does."""
    lock = request.lock
    before = LockRequest.objects.filter(lock=lock, granted_at__isnull=True).filter(
        Q(priority__lt=request.priority)
        | Q(priority=request.priority, asked_at__lt=request.asked_at)
        | Q(priority=request.priority, asked_at=request.asked_at, pk__lt=request.pk)
    )
    ahead = counted(before)
    held = LockRequest.objects.filter(lock=lock, granted_at__isnull=False)
    held_count = counted(held)
    if ahead < lock.capacity - held_count:
        return None
    holders = list(_with_names(held.order_by("granted_at", "id"))[:MOST_NAMED])
    first = None if holders else _with_names(before.order_by("priority", "asked_at", "id")).first()
    facts = {
        "lock": lock.name,
        "capacity": lock.capacity,
        "position": ahead + 1,
        "held": held_count,
        "holders": [
            {"run": each.task_run.run_id, "task_run": each.task_run_id, "task": each.task_run.task.name,
             "since": each.granted_at, "free_at": each.release_at}
            for each in holders
        ],
    }  # fmt: skip
    turn = "it is next" if not ahead else f"{number(ahead, 'other waits', 'others wait')} before it"
    if first is not None:
        text = (
            f"{row.task.name} waits for the lock {lock.name}, which is free but kept for {_named(first)}: that one waits "
            f"for another lock; {turn}"
        )
    else:
        text = (
            f"{row.task.name} waits for the lock {lock.name} (capacity {lock.capacity}), held by "
            f"{listed([_holder(each) for each in holders], held_count)}; {turn}"
        )
    return WaitReason("lock", text, request.asked_at, facts)


def _with_names(requests: QuerySet[LockRequest]) -> QuerySet[LockRequest]:
    return requests.select_related("task_run__task").only(
        "granted_at", "release_at", "task_run__run_id", "task_run__task__name"
    )


def _named(request: LockRequest) -> str:
    return f"run {request.task_run.run_id} {request.task_run.task.name}"


def _holder(request: LockRequest) -> str:
    if request.release_at is not None:
        return f"{_named(request)}, whose worker vanished (free at {at(request.release_at)})"
    return f"{_named(request)} since {at(request.granted_at)}"


def lane_reasons(row: TaskRun, now: datetime, *, hinted_at: datetime | None, hints: int) -> list[WaitReason]:
    """Return why no worker has taken a task run whose message is in its lane since `hinted_at`. Five queries."""
    lane, name = row.task.pool, row.task.name
    workers = LaneWorker.objects.filter(lane=lane)
    alive = workers.filter(seen_at__gte=now - WORKER_LIVES).aggregate(slots=Sum("slots"))
    slots = alive["slots"] or 0
    if not slots:
        seen = workers.aggregate(last=Max("seen_at"))["last"]
        since = f"; the last one was seen at {at(seen)}" if seen else ""
        return [
            WaitReason(
                "no_worker",
                f"{name} is ready, and the lane {lane} has no live worker{since}",
                row.ready_at,
                {"lane": lane, "last_seen": seen},
            )
        ]
    running = counted(TaskRun.objects.filter(state=TaskState.RUNNING, task__pool=lane))
    ready = TaskRun.objects.filter(_IN_LANE, _RUN_GOES_ON, state=TaskState.READY, task__pool=lane)
    urgent = counted(ready.filter(task__priority__lt=row.task.priority)) if row.task.priority else 0
    ahead = urgent
    if hinted_at is not None:
        earlier = Q(hint_published_at__lt=hinted_at) | Q(hint_published_at=hinted_at, pk__lt=row.pk)
        ahead += counted(ready.filter(earlier, task__priority=row.task.priority))
    reasons = []
    if running >= slots:
        reasons.append(
            WaitReason(
                "lane_busy",
                f"{name} is ready, and the lane {lane} is busy: {number(slots, 'slot', 'slots')}, {number(running)} running, "
                f"{number(ahead)} ready before it",
                row.ready_at,
                {"lane": lane, "slots": slots, "running": running, "ahead": ahead},
            )
        )
    if urgent:
        reasons.append(
            WaitReason(
                "priority",
                f"{number(urgent, 'task', 'tasks')} of higher priority than {name} (P{row.task.priority}) "
                f"{'is' if urgent == 1 else 'are'} ready in the lane {lane}",
                row.ready_at,
                {"lane": lane, "priority": f"P{row.task.priority}", "ahead": urgent},
            )
        )
    # A message that waits behind others is not lost.
    if running < slots and not urgent:
        reasons.append(_hint_reason(row, now, hinted_at, hints))
    return reasons


def _hint_reason(row: TaskRun, now: datetime, hinted_at: datetime | None, hints: int) -> WaitReason:
    name = row.task.name
    if hinted_at is None:
        return WaitReason(
            "hint_due", f"{name} is ready, and its message is about to be published", row.ready_at,
            {"lane": row.task.pool},
        )  # fmt: skip
    healed_at = hinted_at + pause_after(hints, first=timedelta(seconds=options().hint_seconds))
    facts = {"lane": row.task.pool, "published_at": hinted_at, "published": hints, "healed_at": healed_at}
    if now < healed_at:
        return WaitReason(
            "starting",
            f"{name} is about to start: its message was published at {at(hinted_at)}, and the lane {row.task.pool} has a "
            f"free slot; should the message be lost, it is published again at {at(healed_at)}",
            hinted_at,
            facts,
        )
    return WaitReason(
        "hint_lost",
        f"the message for {name}, published at {at(hinted_at)}, counts as lost: the lane {row.task.pool} has a free slot, "
        f"and nobody took it; healing was due at {at(healed_at)}, by the reconciler's next round",
        hinted_at,
        facts,
    )
