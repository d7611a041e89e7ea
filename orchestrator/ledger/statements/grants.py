"""The statements of named locks. On PostgreSQL a hand-over is two of them; on SQLite, which has one writer and no
round trips, the same through the ORM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Count, QuerySet

from orchestrator.ledger.statements import statements
from orchestrator.models import Lock, LockRequest, TaskRun


@dataclass(frozen=True, slots=True)
class Granted:
    """A task run that got its locks, and what its hint needs."""

    task_run_id: int
    run_id: int
    position: int
    version_id: int


# The locks themselves, and those that their first waiters wait for besides: taken together, in one order. A waiter
# beyond the first `capacity` cannot be granted now, whatever is freed.
LOCK_ROWS = """
with asked as (
    select id from unnest(%(locks)s::bigint[]) as a(id)
     union
    select lock_id from orchestrator_lockrequest where task_run_id = any(%(freed)s::bigint[])
), heads as (
    select q.task_run_id
      from asked a join orchestrator_lock l on l.id = a.id
     cross join lateral (
           select task_run_id from orchestrator_lockrequest
            where lock_id = l.id and granted_at is null and %(with_heads)s
            order by priority, asked_at, id limit l.capacity) q
), wanted as (
    select id from asked
     union
    select r.lock_id from orchestrator_lockrequest r join heads h on h.task_run_id = r.task_run_id
)
select l.id from orchestrator_lock l where l.id in (select id from wanted) order by l.id for no key update"""

# What is deleted here is still seen by the counts beside it, hence the `<> all`. A task run whose turn has come in
# each of its locks gets all of them.
GRANT = """
with gone as (
    delete from orchestrator_lockrequest where task_run_id = any(%(freed)s::bigint[])
), turns as (
    select q.task_run_id
      from orchestrator_lock l
     cross join lateral (
           select count(*) as n from orchestrator_lockrequest
            where lock_id = l.id and granted_at is not null and task_run_id <> all(%(freed)s::bigint[])) taken
     cross join lateral (
           select task_run_id from orchestrator_lockrequest
            where lock_id = l.id and granted_at is null and task_run_id <> all(%(freed)s::bigint[])
            order by priority, asked_at, id limit greatest(l.capacity - taken.n, 0)) q
     where l.id = any(%(locks)s::bigint[])
), granted as (
    select t.id, t.run_id, t.position
      from (select task_run_id, count(*) as turns from turns group by task_run_id) g
      join orchestrator_taskrun t on t.id = g.task_run_id
     where g.turns >= t.lock_count
), written as (
    update orchestrator_lockrequest r set granted_at = now()
      from granted g where r.task_run_id = g.id and r.granted_at is null
)
select g.id, g.run_id, g.position, r.version_id
  from granted g join orchestrator_jobrun r on r.id = g.run_id order by g.id"""


def lock_rows(
    cursor: Any, *, lock_ids: Collection[int] = (), freed: Collection[int] = (), with_heads: bool = True
) -> set[int]:
    """Lock the rows of these locks, of those that the `freed` task runs have, and of those their first waiters need."""
    if connection.vendor == "postgresql":
        cursor.execute(LOCK_ROWS, {"locks": list(lock_ids), "freed": list(freed), "with_heads": with_heads})
        return {id for (id,) in cursor.fetchall()}
    asked = set(lock_ids)
    for chunk in _chunks(freed):
        asked |= set(LockRequest.objects.filter(task_run_id__in=chunk).values_list("lock_id", flat=True))
    if not with_heads:
        return set(Lock.objects.filter(pk__in=asked).values_list("pk", flat=True))
    heads: set[int] = set()
    for lock in Lock.objects.filter(pk__in=asked):
        heads.update(_queue(lock.pk)[: lock.capacity])
    for chunk in _chunks(heads):
        asked |= set(LockRequest.objects.filter(task_run_id__in=chunk).values_list("lock_id", flat=True))
    return set(Lock.objects.filter(pk__in=asked).values_list("pk", flat=True))


def grant(cursor: Any, *, lock_ids: Collection[int], freed: Collection[int] = ()) -> list[Granted]:
    """Take the locks from the `freed` task runs, and grant free slots of locked rows to the waiters whose turn it is."""
    if connection.vendor == "postgresql":
        cursor.execute(GRANT, {"locks": list(lock_ids), "freed": list(freed)})
        return [Granted(*row) for row in cursor.fetchall()]
    for chunk in _chunks(freed):
        LockRequest.objects.filter(task_run_id__in=chunk).delete()
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
    granted: list[Granted] = []
    for chunk in _chunks(turns):
        rows = TaskRun.objects.filter(pk__in=chunk).values_list(
            "id", "run_id", "position", "run__version_id", "lock_count"
        )
        granted += [Granted(*row[:4]) for row in rows if turns[row[0]] >= row[4]]
    now = statements().database_now(cursor)
    for chunk in _chunks([each.task_run_id for each in granted]):
        LockRequest.objects.filter(task_run_id__in=chunk, granted_at__isnull=True).update(granted_at=now)
    return sorted(granted, key=lambda each: each.task_run_id)


def _queue(lock_id: int) -> QuerySet[LockRequest, int]:
    return (
        LockRequest.objects.filter(lock_id=lock_id, granted_at__isnull=True)
        .order_by("priority", "asked_at", "id")
        .values_list("task_run_id", flat=True)
    )


def _chunks(ids: Collection[int], size: int = 500) -> list[list[int]]:
    """SQLite binds at most 999 values in older builds."""
    listed = list(ids)
    return [listed[start : start + size] for start in range(0, len(listed), size)]
