"""Attempts whose worker vanished."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from orchestrator.canvas import binding
from orchestrator.ledger import locks
from orchestrator.ledger.advance import advance_run
from orchestrator.ledger.healing.rows import Guard, locked
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Attempt, LockRequest, TaskRun
from orchestrator.planning.retry import GiveUp, RetryAfter, after_failure, after_loss
from orchestrator.states import AttemptState, TaskState


def expired_leases(guard: Guard) -> int:
    """Take task runs from workers that vanished: again if idempotent, else failed (lost), for a person to decide."""

    def work() -> tuple[int, list[binding.Hint], set[int]]:
        if not guard():
            return 0, [], set()
        now = database_now()
        rows = locked(TaskRun.objects.filter(state=TaskState.RUNNING, lease_until__lt=now).order_by("id"))
        hints: list[binding.Hint] = []
        for row in rows:
            hints += _expire(row, now)
        return len(rows), hints, {row.run_id for row in rows}

    count, hints, run_ids = in_transaction(work)
    for run_id in sorted(run_ids):
        hints += advance_run(run_id)
    binding.publish(hints)
    return count


def _expire(row: TaskRun, now: datetime) -> list[binding.Hint]:
    """Decide one expired lease, in the caller's transaction. The token is bumped: the old worker writes nothing."""
    version = compiled_version(row.run.version_id)
    task = version.tasks[row.position]
    attempt_state, kind = AttemptState.LOST, "lost"
    reason = f"lost: {row.worker} did not renew its lease"
    decision: RetryAfter | GiveUp
    to = TaskState.FAILED
    losses = row.lost_count + 1
    if row.stop_requested_at:
        attempt_state, to = AttemptState.LOST, TaskState(row.run.stop_state or TaskState.CANCELLED)
        decision, reason = GiveUp(""), row.stop_reason
    elif row.deadline_at is not None and row.deadline_at < now:
        attempt_state, to, kind = AttemptState.TIMED_OUT, TaskState.TIMED_OUT, "timeout"
        reason = f"took longer than {task.timeout:g} s, and its worker vanished"
        decision = after_failure(
            task.retry, kind="timeout", exit_code=None, idempotent=task.idempotent, attempts=row.attempt_count,
            jitter=random.random(),
        )  # fmt: skip
    else:
        decision = after_loss(idempotent=task.idempotent, losses=losses)
    Attempt.objects.filter(task_run=row, token=row.fencing_token, state=AttemptState.RUNNING).update(
        state=attempt_state, reason=reason[:500], failure_kind=kind, ended_at=now
    )
    fields: dict[str, Any] = {
        "fencing_token": row.fencing_token + 1,
        "lost_count": losses,
        "lease_until": None,
        "deadline_at": None,
        "worker": "",
    }
    # Its process may live for a moment yet: a lock it held is free only then.
    LockRequest.objects.filter(task_run=row).update(release_at=(row.lease_until or now) + locks.RELEASE_AFTER_LEASE)
    if isinstance(decision, GiveUp):
        move_tasks([row], to, now=now, reason=decision.reason or reason, cause="expire", **fields)
        return []
    if row.lock_count or decision.seconds:
        due = now + max(
            timedelta(seconds=decision.seconds), locks.RELEASE_AFTER_LEASE if row.lock_count else timedelta()
        )
        move_tasks([row], TaskState.RETRY_WAITING, now=now, reason=reason, cause="expire", due_at=due,
                   hint_published_at=None, **fields)  # fmt: skip
        return []
    move_tasks([row], TaskState.READY, now=now, reason=reason, cause="expire", ready_at=now, hint_published_at=now,
               hint_count=1, **fields)  # fmt: skip
    return hints_of([row])
