"""Named locks with who holds them and who waits, as one tenant sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet

from orchestrator.errors import NotFound
from orchestrator.models import Lock, LockRequest
from orchestrator.selectors.pages import Page, page_of
from orchestrator.states import TaskState

#: Holders and waiters shown of one lock; the counts beside them are whole.
MOST_SHOWN = 200


class UnknownLock(NotFound):
    """There is no such lock."""

    code = "unknown_lock"


@dataclass(frozen=True, slots=True)
class Use:
    """A task run that holds a lock, or waits for it at `position` (from 1)."""

    run_id: int
    job: str
    task_run_id: int
    task: str
    state: str
    attempt: int
    worker: str
    priority: int
    since: datetime
    position: int | None = None
    #: When the lock of a vanished worker becomes free by itself.
    free_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LockUse:
    """A lock, who holds it in the order of grants, and who waits in the order of turns."""

    lock: Lock
    held: int
    waiting: int
    holders: tuple[Use, ...]
    waiters: tuple[Use, ...]


def lock_of(tenant_id: int, name: str) -> Lock:
    """Return a lock; raises UnknownLock."""
    lock = Lock.objects.filter(tenant_id=tenant_id, name=name).first()
    if lock is None:
        raise UnknownLock(f"There is no lock {name!r}.")
    return lock


def locks_of(tenant_id: int, *, after: str | None = None, limit: int = 50) -> Page[Lock]:
    """Return a page of locks by name, each with `held` and `waiting` counted."""
    locks = counted(Lock.objects.filter(tenant_id=tenant_id)).order_by("name")
    if after is not None:
        locks = locks.filter(name__gt=after)
    return page_of(locks, limit=limit, cursor_of=lambda lock: lock.name)


def counted(locks: QuerySet[Lock]) -> QuerySet[Lock]:
    """Add `held` and `waiting` to each lock."""
    return locks.annotate(
        held=Count("requests", filter=Q(requests__granted_at__isnull=False)),
        waiting=Count("requests", filter=Q(requests__granted_at__isnull=True)),
    )


def use_of(lock: Lock) -> LockUse:
    """Return who holds a lock and who waits for it, in four queries however many they are."""
    requests = LockRequest.objects.filter(lock=lock).select_related("task_run__task", "task_run__run__job")
    requests = requests.only(
        "priority", "asked_at", "granted_at", "release_at", "task_run__state", "task_run__attempt_count",
        "task_run__worker", "task_run__run_id", "task_run__task__name", "task_run__run__job__name",
    )  # fmt: skip
    held = requests.filter(granted_at__isnull=False)
    waiting = requests.filter(granted_at__isnull=True)
    return LockUse(
        lock,
        held.count(),
        waiting.count(),
        tuple(_use(row, row.granted_at or row.asked_at) for row in held.order_by("granted_at", "id")[:MOST_SHOWN]),
        tuple(
            _use(row, row.asked_at, position)
            for position, row in enumerate(waiting.order_by("priority", "asked_at", "id")[:MOST_SHOWN], start=1)
        ),
    )


def _use(row: LockRequest, since: datetime, position: int | None = None) -> Use:
    task_run = row.task_run
    # Of a grant that is not used yet, the worker of an attempt before is nobody's business.
    running = task_run.state == TaskState.RUNNING
    return Use(
        run_id=task_run.run_id,
        job=task_run.run.job.name,
        task_run_id=task_run.pk,
        task=task_run.task.name,
        state=task_run.state,
        attempt=task_run.attempt_count,
        worker=task_run.worker if running else "",
        priority=row.priority,
        since=since,
        position=position,
        free_at=row.release_at,
    )
