"""Locks that are free, kept by nobody, or held by a worker that vanished."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Count, Exists, F, OuterRef, Q

from orchestrator.canvas import binding
from orchestrator.ledger import locks
from orchestrator.ledger.healing.rows import BATCH, Guard, locked
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Lock, LockRequest, TaskRun
from orchestrator.states import RunState, TaskState

#: A granted lock that nobody claimed goes to the next.
GRANT_LIVES = timedelta(seconds=60)


def released_locks(guard: Guard) -> int:
    """Free the locks of vanished holders, once their processes must have ended."""

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        ids = set(
            LockRequest.objects.filter(release_at__lte=database_now()).values_list("task_run_id", flat=True)[:BATCH]
        )
        return len(ids), locks.release(task_run_ids=ids) if ids else []

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def unclaimed_grants(guard: Guard) -> int:
    """Take back grants that nobody claimed, and give them to the next; who lost one asks again, behind the others."""

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        unclaimed = LockRequest.objects.filter(task_run=OuterRef("pk"), granted_at__lt=now - GRANT_LIVES)
        # The row locks keep claims out until the grants are gone: a claim reads them under the same lock.
        rows = locked(
            TaskRun.objects.filter(Exists(unclaimed), state=TaskState.READY, run__state=RunState.RUNNING).order_by("id")
        )
        return len(rows), ask_again(rows, now, reason="")

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def free_locks(guard: Guard) -> int:
    """Grant locks that have waiters and free slots: a capacity was raised, or a holder's row vanished."""
    held = Count("requests", filter=Q(requests__granted_at__isnull=False))
    waiting = Count("requests", filter=Q(requests__granted_at__isnull=True))
    ids = list(
        Lock.objects.annotate(held=held, waiting=waiting)
        .filter(waiting__gt=0, held__lt=F("capacity"))
        .values_list("id", flat=True)[:BATCH]
    )
    if not ids:
        return 0
    hints = in_transaction(lambda: locks.grant_free(ids) if guard() else [])
    binding.publish(hints)
    return len(hints)


def ask_again(rows: list[TaskRun], now: datetime, *, reason: str) -> list[binding.Hint]:
    """Make task runs with locks ready and ask for their locks; returns the hints of those that got them."""
    if not rows:
        return []
    due = [row for row in rows if row.state != TaskState.READY]
    move_tasks(due, TaskState.READY, now=now, reason=reason, cause="timer", ready_at=now, due_at=None)
    # A grant of before, unclaimed or of a vanished attempt, would stand in the way of the new request.
    hints = locks.release(task_run_ids=[row.pk for row in rows])
    for row in rows:
        version = compiled_version(row.run.version_id)
        granted = locks.ask(run_id=row.run_id, version=version, task_runs=[(row.position, row.pk)])
        hints += locks.hints_for(granted)
    return hints
