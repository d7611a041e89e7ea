"""What is due by the database's clock: retries, deadlines, time to start."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from django.db.models import F, Q
from django.db.models.functions import Now

from orchestrator.canvas import binding
from orchestrator.ledger import locks
from orchestrator.ledger.advance import advance_run
from orchestrator.ledger.finish import stop_run
from orchestrator.ledger.healing.grants import ask_again
from orchestrator.ledger.healing.rows import BATCH, READY_RUNS, Guard, locked, stale
from orchestrator.ledger.pending import expire
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, end_deferred, move_tasks
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.planning.retry import GiveUp, after_failure
from orchestrator.states import AttemptState, RunState, TaskState

#: What waits for a moment: the next attempt, or the rest of a deferred one.
TIMED = (TaskState.RETRY_WAITING, TaskState.DEFERRED)


def due_attempts(guard: Guard) -> int:
    """Publish task runs whose next attempt, or the rest of a deferred one, is due.

    A retry that needs locks becomes ready and asks for them again; a deferred attempt has kept its own.
    """
    # A look first: twice a second, for ever, there is nothing to do.
    if not TaskRun.objects.filter(state__in=TIMED, due_at__lte=Now()).exists():
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
                Q(deadline_at__isnull=True) | Q(deadline_at__gt=now),
                state__in=TIMED,
                due_at__lte=now,
            ).order_by(F("hint_published_at").asc(nulls_first=True), "id")
        )
        return len(rows), _make_due(rows, now)

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _make_due(rows: list[TaskRun], now: datetime) -> list[binding.Hint]:
    # A retry has given its locks back, whatever a grant of before may say.
    free = [row for row in rows if not row.lock_count or (row.state == TaskState.DEFERRED and locks.are_granted(row))]
    ids = {row.pk for row in free}
    TaskRun.objects.filter(pk__in=ids, hint_published_at__isnull=True).update(hint_count=0)
    TaskRun.objects.filter(pk__in=ids).update(hint_published_at=now, hint_count=F("hint_count") + 1)
    again = [row for row in rows if row.pk not in ids]
    return hints_of(free) + ask_again(again, now, reason="due, and needs its locks")


def attempt_deadlines(guard: Guard, state: TaskState) -> int:
    """End deferred attempts whose time is up; the clock runs from the first claim. The retry rule decides what follows.

    `state` is `deferred`, or `ready` for those that lost their locks and asked for them again.
    """
    late = TaskRun.objects.filter(state=state, deadline_at__lte=Now())
    if state == TaskState.DEFERRED:
        late = late.filter(due_at__lte=Now())  # due at its deadline at the latest, and this has an index
    if not late.exists():
        return 0

    def work() -> tuple[int, list[binding.Hint], set[int]]:
        if not guard():
            return 0, [], set()
        now = database_now()
        rows = locked(late.order_by("id"))
        over = [row for row in rows if _time_out(row, now)]
        hints = locks.release(task_run_ids=[row.pk for row in rows if row.lock_count])
        # A chord counts the part of a header that is over when its message finds it so.
        hints += hints_of([row for row in over if row.fragment_id is not None])
        return len(rows), hints, {row.run_id for row in over}

    count, hints, run_ids = in_transaction(work)
    for run_id in sorted(run_ids):
        hints += advance_run(run_id)
    binding.publish(hints)
    return count


def _time_out(row: TaskRun, now: datetime) -> bool:
    """Decide one deferred attempt at its deadline as if its worker had reported it; whether its task run is over."""
    task = compiled_version(row.run.version_id).tasks[row.position]
    reason = f"timed out after {task.timeout:g} s"
    decision = after_failure(
        task.retry, kind="timeout", exit_code=None, idempotent=task.idempotent, attempts=row.attempt_count,
        jitter=random.random(),
    )  # fmt: skip
    if isinstance(decision, GiveUp):
        reason += f" ({decision.reason})" if decision.reason else ""
        move_tasks([row], TaskState.TIMED_OUT, now=now, reason=reason, cause="timer")
        return True
    end_deferred([row], AttemptState.TIMED_OUT, now=now, reason=reason)
    move_tasks([row], TaskState.RETRY_WAITING, now=now, reason=reason, cause="timer", deadline_at=None,
               due_at=now + timedelta(seconds=decision.seconds), hint_published_at=None)  # fmt: skip
    return False


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


def run_expiries(guard: Guard) -> int:
    """End pending runs that waited as long as their rule lets them."""
    if not JobRun.objects.filter(state=RunState.PENDING, expires_at__lte=Now()).exists():
        return 0
    count, hints = expire(guard)
    binding.publish(hints)
    return count


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
