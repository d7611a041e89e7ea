"""What is due by the database's clock: retries, deadlines, time to start."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F, Q
from django.db.models.functions import Now

from orchestrator.canvas import binding
from orchestrator.ledger import locks
from orchestrator.ledger.advance import advance_run
from orchestrator.ledger.finish import stop_run
from orchestrator.ledger.healing.grants import ask_again
from orchestrator.ledger.healing.rows import BATCH, READY_RUNS, Guard, locked, stale
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.states import RunState, TaskState


def due_retries(guard: Guard) -> int:
    """Publish task runs whose retry is due; one with locks becomes ready and asks for them again."""
    # A look first: twice a second, for ever, there is nothing to do.
    if not TaskRun.objects.filter(state=TaskState.RETRY_WAITING, due_at__lte=Now()).exists():
        return 0

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        # A hint that went out may wait in a long lane: repeated ever more rarely, as any other.
        rows = locked(
            TaskRun.objects.filter(
                READY_RUNS,
                Q(hint_published_at__isnull=True) | stale(now),
                state=TaskState.RETRY_WAITING,
                due_at__lte=now,
            ).order_by(F("hint_published_at").asc(nulls_first=True), "id")
        )
        return len(rows), _make_due(rows, now)

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _make_due(rows: list[TaskRun], now: datetime) -> list[binding.Hint]:
    free = [row for row in rows if not row.lock_count]
    ids = [row.pk for row in free]
    TaskRun.objects.filter(pk__in=ids, hint_published_at__isnull=True).update(hint_count=0)
    TaskRun.objects.filter(pk__in=ids).update(hint_published_at=now, hint_count=F("hint_count") + 1)
    return hints_of(free) + ask_again([row for row in rows if row.lock_count], now, reason="retry is due")


def run_deadlines(guard: Guard) -> int:
    """Stop runs whose time is up; the clock runs from admission."""
    if not JobRun.objects.filter(state=RunState.RUNNING, deadline_at__lte=Now()).exists():
        return 0
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    due = JobRun.objects.filter(
        state=RunState.RUNNING, deadline_at__lte=now, stop_requested_at__isnull=True
    ).values_list("id", "version_id")[:BATCH]
    rows = list(due)
    for run_id, version_id in rows:
        timeout = compiled_version(version_id).spec.timeout
        binding.publish(
            stop_run(run_id, state=RunState.TIMED_OUT, reason=f"the run took longer than {timeout:g} s", cause="timer")
        )
    return len(rows)


def queue_timeouts(guard: Guard) -> int:
    """End ready task runs that waited longer than their queue_timeout."""

    def work() -> tuple[int, list[binding.Hint], set[int]]:
        if not guard():
            return 0, [], set()
        now = database_now()
        ready = TaskRun.objects.filter(state=TaskState.READY, task__queue_timeout_seconds__isnull=False)
        late = Q(pk__in=[])
        # A few different times at most: each compares with its own moment, which an index can answer.
        for seconds in ready.values_list("task__queue_timeout_seconds", flat=True).distinct():
            late |= Q(task__queue_timeout_seconds=seconds, ready_at__lt=now - timedelta(seconds=seconds or 0))
        rows = locked(ready.filter(late).select_related("task").order_by("id"))
        for row in rows:
            move_tasks([row], TaskState.TIMED_OUT, now=now, cause="timer",
                       reason=f"waited longer than {row.task.queue_timeout_seconds:g} s to start")  # fmt: skip
        hints = locks.release(task_run_ids=[row.pk for row in rows if row.lock_count])
        return len(rows), hints, {row.run_id for row in rows}

    count, hints, run_ids = in_transaction(work)
    for run_id in sorted(run_ids):
        hints += advance_run(run_id)
    binding.publish(hints)
    return count
