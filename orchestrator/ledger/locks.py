"""Named locks: asked for before publishing, granted by the transaction that frees them.

All of a task's locks or none. A waiter is granted its locks when, in the queue of each, fewer waiters stand before it
than slots are free; so the first in the order (priority, asked_at) never starves and two waiters never hold half of
what the other needs. Lock rows are locked by id, which every caller keeps. A waiting task costs no message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.statements import grants, statements
from orchestrator.ledger.statements.grants import Granted
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import JobRun, Lock, LockRequest, TaskRun
from orchestrator.states import TaskState

#: A vanished worker's process ends itself within so many seconds of its lease: only then is its lock free.
RELEASE_AFTER_LEASE = timedelta(seconds=10)


def ask(*, run_id: int, version: CompiledVersion, task_runs: Sequence[tuple[int, int]]) -> frozenset[int]:
    """Ask for the locks of ready task runs, (position, id) each; returns the ids of all task runs that this granted.

    Those may be others that waited; whoever is granted is published. Inside the caller's transaction.
    Locks that nobody defined come into being with capacity 1.
    """
    names = sorted({name for position, _ in task_runs for name in version.tasks[position].locks})
    with connection.cursor() as cursor:
        # Before the requests exist: whoever grants from these queues must not miss them.
        ids = _locked_by_name(cursor, run_id, names)
        now = statements().database_now(cursor)
        LockRequest.objects.bulk_create(
            [
                LockRequest(task_run_id=id, lock_id=ids[name], priority=version.priority_of(position), asked_at=now)
                for position, id in task_runs
                for name in version.tasks[position].locks
            ],
            ignore_conflicts=True,
        )
        return frozenset(granted.task_run_id for granted in grants.grant(cursor, lock_ids=ids.values()))


def release(*, task_run_ids: Collection[int]) -> list[Hint]:
    """Give back all locks of task runs and grant them on; returns the hints of those granted, for after the commit."""
    if not task_run_ids:
        return []
    with connection.cursor() as cursor:
        wanted = grants.lock_rows(cursor, freed=task_run_ids)
        if not wanted:
            return []
        return _hints(grants.grant(cursor, lock_ids=wanted, freed=task_run_ids))


def release_idle(rows: Iterable[TaskRun], *, now: datetime) -> list[Hint]:
    """Give back the locks of task runs that nobody executes, as `release` does.

    The process of a vanished worker may live for a moment yet: its locks go when the reconciler says so.
    """
    ids = {row.pk for row in rows if row.lock_count}
    if not ids:
        return []
    kept = LockRequest.objects.filter(task_run_id__in=ids, release_at__gt=now)
    return release(task_run_ids=ids - set(kept.values_list("task_run_id", flat=True)))


def release_held(*, lock_id: int, task_run_id: int) -> tuple[TaskRun, list[Hint]] | None:
    """Take one lock from a task run that holds it, and grant it on; None if it does not hold it.

    Returns the task run, locked, and the hints of those granted. One that has not used its grant yet asks again for
    all that it needs, behind the others; a deferred one does so when it is due. The settlement of one that runs finds
    nothing left to give back.
    """
    row = TaskRun.objects.select_related("run", "task").select_for_update(of=("self",)).filter(pk=task_run_id).first()
    held = LockRequest.objects.filter(lock_id=lock_id, task_run_id=task_run_id, granted_at__isnull=False)
    if row is None or not held.exists():
        return None
    if row.state == TaskState.READY:
        # All or none: what it holds besides would stand idle while it waits for this one.
        return row, release(task_run_ids=[row.pk]) + _ask_anew(row)
    with connection.cursor() as cursor:
        wanted = grants.lock_rows(cursor, lock_ids=[lock_id])
        held.delete()
        return row, _hints(grants.grant(cursor, lock_ids=wanted))


def grant_free(lock_ids: Iterable[int]) -> list[Hint]:
    """Grant what is free of these locks to their waiters. For the reconciler, and after a change of capacity."""
    with connection.cursor() as cursor:
        wanted = grants.lock_rows(cursor, lock_ids=set(lock_ids))
        return _hints(grants.grant(cursor, lock_ids=wanted))


def are_granted(row: TaskRun) -> bool:
    """Whether a task run holds all the locks it needs."""
    if not row.lock_count:
        return True
    held = LockRequest.objects.filter(task_run=row, granted_at__isnull=False, release_at__isnull=True)
    return held.count() >= row.lock_count


def hints_for(task_run_ids: Collection[int]) -> list[Hint]:
    """Return the hints of ready task runs that were granted their locks."""
    if not task_run_ids:
        return []
    rows = TaskRun.objects.filter(pk__in=task_run_ids).order_by("pk")
    return _hints([Granted(*row) for row in rows.values_list("id", "run_id", "position", "run__version_id")])


def _hints(granted: Iterable[Granted]) -> list[Hint]:
    from orchestrator.ledger.start import message  # start asks for locks

    # Never a chord's header: a task with locks is compiled as a single one.
    return [
        message(compiled_version(each.version_id), each.run_id, each.position, each.task_run_id) for each in granted
    ]


def _ask_anew(row: TaskRun) -> list[Hint]:
    version = compiled_version(row.run.version_id)
    return hints_for(ask(run_id=row.run_id, version=version, task_runs=[(row.position, row.pk)]))


def _locked_by_name(cursor: object, run_id: int, names: Sequence[str]) -> dict[str, int]:
    """Return name → id of locks whose rows are locked; one that is missing is made."""
    tenant_id = JobRun.objects.values_list("tenant_id", flat=True).get(pk=run_id)
    while True:
        ids = dict(Lock.objects.filter(tenant_id=tenant_id, name__in=names).values_list("name", "id"))
        missing = [name for name in names if name not in ids]
        if missing:
            Lock.objects.bulk_create([Lock(tenant_id=tenant_id, name=name) for name in missing], ignore_conflicts=True)
            continue
        # One that was deleted since it was read is made anew; the others' locks are kept meanwhile.
        if len(grants.lock_rows(cursor, lock_ids=ids.values(), with_heads=False)) == len(ids):
            return ids
