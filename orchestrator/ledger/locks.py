"""Named locks: asked for before publishing, granted by the transaction that frees them.

All of a task's locks or none. A waiter is granted its locks when, in the queue of each, fewer waiters stand before it
than slots are free; so the first in the order (priority, asked_at) never starves and two waiters never hold half of
what the other needs. Lock rows are locked by id, which every caller keeps. A waiting task costs no message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from django.db.models import Count, QuerySet

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.transitions import database_now
from orchestrator.ledger.versions import CompiledVersion
from orchestrator.models import JobRun, Lock, LockRequest, TaskRun

#: A vanished worker's process ends itself within so many seconds of its lease: only then is its lock free.
RELEASE_AFTER_LEASE = timedelta(seconds=10)


def ask(*, run_id: int, version: CompiledVersion, task_runs: Sequence[tuple[int, int]]) -> frozenset[int]:
    """Ask for the locks of ready task runs, (position, id) each; returns the ids of all task runs that this granted.

    Those may be others that waited; whoever is granted is published. Inside the caller's transaction.
    Locks that nobody defined come into being with capacity 1.
    """
    tenant_id = JobRun.objects.values_list("tenant_id", flat=True).get(pk=run_id)
    names = sorted({name for position, _ in task_runs for name in version.tasks[position].locks})
    Lock.objects.bulk_create([Lock(tenant_id=tenant_id, name=name) for name in names], ignore_conflicts=True)
    ids = dict(Lock.objects.filter(tenant_id=tenant_id, name__in=names).values_list("name", "id"))
    now = database_now()
    # Before the requests exist: whoever grants from these queues must not miss them.
    _lock_rows(ids.values())
    LockRequest.objects.bulk_create(
        [
            LockRequest(task_run_id=id, lock_id=ids[name], priority=version.priority_of(position), asked_at=now)
            for position, id in task_runs
            for name in version.tasks[position].locks
        ],
        ignore_conflicts=True,
    )
    return frozenset(_grant(ids.values(), now))


def release(*, task_run_ids: Collection[int]) -> list[Hint]:
    """Give back all locks of task runs and grant them on; returns the hints of those granted, for after the commit."""
    requests = LockRequest.objects.filter(task_run_id__in=task_run_ids)
    freed = set(requests.values_list("lock_id", flat=True))
    if not freed:
        return []
    wanted = _lock_rows(freed | _needed_by_heads(freed))
    requests.delete()
    return hints_for(_grant(wanted, database_now()))


def grant_free(lock_ids: Iterable[int]) -> list[Hint]:
    """Grant what is free of these locks to their waiters. For the reconciler, and after a change of capacity."""
    freed = set(lock_ids)
    wanted = _lock_rows(freed | _needed_by_heads(freed))
    return hints_for(_grant(wanted, database_now()))


def are_granted(row: TaskRun) -> bool:
    """Whether a task run holds all the locks it needs."""
    if not row.lock_count:
        return True
    held = LockRequest.objects.filter(task_run=row, granted_at__isnull=False, release_at__isnull=True)
    return held.count() >= row.lock_count


def hints_for(task_run_ids: Collection[int]) -> list[Hint]:
    """Return the hints of ready task runs that were granted their locks."""
    from orchestrator.ledger.start import hints_of  # start asks for locks

    if not task_run_ids:
        return []
    return hints_of(list(TaskRun.objects.filter(pk__in=task_run_ids).select_related("run").order_by("pk")))


def _lock_rows(lock_ids: Iterable[int]) -> set[int]:
    rows = Lock.objects.select_for_update().filter(pk__in=set(lock_ids)).order_by("pk")
    return set(rows.values_list("pk", flat=True))


def _needed_by_heads(lock_ids: Collection[int]) -> set[int]:
    """Locks that the first waiters of these also wait for: taken together, in one order."""
    heads: set[int] = set()
    for lock_id in lock_ids:
        capacity = Lock.objects.values_list("capacity", flat=True).get(pk=lock_id)
        heads.update(_queue(lock_id)[:capacity])
    return set(LockRequest.objects.filter(task_run_id__in=heads).values_list("lock_id", flat=True))


def _queue(lock_id: int) -> QuerySet[LockRequest, int]:
    return (
        LockRequest.objects.filter(lock_id=lock_id, granted_at__isnull=True)
        .order_by("priority", "asked_at", "id")
        .values_list("task_run_id", flat=True)
    )


def _grant(lock_ids: Collection[int], now: datetime) -> set[int]:
    """Grant free slots of locked lock rows to the waiters whose turn it is; returns their task run ids."""
    taken = dict(
        LockRequest.objects.filter(lock_id__in=lock_ids, granted_at__isnull=False)
        .values_list("lock_id")
        .annotate(n=Count("id"))
    )
    turns: Counter[int] = Counter()
    for lock in Lock.objects.filter(pk__in=lock_ids):
        free = lock.capacity - taken.get(lock.pk, 0)
        if free > 0:
            turns.update(_queue(lock.pk)[:free])
    if not turns:
        return set()
    needed = dict(TaskRun.objects.filter(pk__in=list(turns)).values_list("pk", "lock_count"))
    granted = {id for id, turn in turns.items() if turn >= needed.get(id, 0)}
    if granted:
        LockRequest.objects.filter(task_run_id__in=granted, granted_at__isnull=True).update(granted_at=now)
    return granted
