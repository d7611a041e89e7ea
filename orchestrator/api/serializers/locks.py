"""How locks, their holders and their waiters look in answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.models import Lock
from orchestrator.selectors.locks import LockUse, Use
from orchestrator.services.locks import ReleasedHolder


class LockAnswer(serializers.Serializer):
    """A named lock."""

    name = serializers.CharField()
    capacity = serializers.IntegerField(help_text="Attempts that hold it at once.")
    description = serializers.CharField()
    updated_by = serializers.CharField(help_text="Who defined it last; empty for one made by its first use.")
    held = serializers.IntegerField()
    waiting = serializers.IntegerField()


def lock_answer(lock: Lock, *, held: int | None = None, waiting: int | None = None) -> dict[str, Any]:
    """Show a lock; counts that are not given must have been counted with it."""
    return {
        "name": lock.name,
        "capacity": lock.capacity,
        "description": lock.description,
        "updated_by": lock.updated_by,
        "held": getattr(lock, "held", held),
        "waiting": getattr(lock, "waiting", waiting),
    }


class HolderAnswer(serializers.Serializer):
    """A task run that holds the lock."""

    run = serializers.IntegerField()
    job = serializers.CharField()
    task_run = serializers.IntegerField()
    task = serializers.CharField()
    state = serializers.CharField(help_text="`ready`: granted, and not claimed yet.")
    attempt = serializers.IntegerField()
    worker = serializers.CharField()
    priority = serializers.CharField()
    since = serializers.DateTimeField()
    free_at = serializers.DateTimeField(
        allow_null=True, help_text="When the lock of a vanished worker becomes free by itself."
    )


class WaiterAnswer(serializers.Serializer):
    """A task run that waits for the lock."""

    position = serializers.IntegerField(help_text="1 is the next.")
    run = serializers.IntegerField()
    job = serializers.CharField()
    task_run = serializers.IntegerField()
    task = serializers.CharField()
    priority = serializers.CharField()
    since = serializers.DateTimeField()


class LockUseAnswer(LockAnswer):
    """A lock with its holders in the order of grants and its waiters in the order of turns, at most 200 of each."""

    holders = HolderAnswer(many=True)
    waiters = WaiterAnswer(many=True)


def lock_use_answer(use: LockUse) -> dict[str, Any]:
    return {
        **lock_answer(use.lock, held=use.held, waiting=use.waiting),
        "holders": [_holder(each) for each in use.holders],
        "waiters": [_waiter(each) for each in use.waiters],
    }


def _holder(use: Use) -> dict[str, Any]:
    return {
        "run": use.run_id,
        "job": use.job,
        "task_run": use.task_run_id,
        "task": use.task,
        "state": use.state,
        "attempt": use.attempt,
        "worker": use.worker,
        "priority": f"P{use.priority}",
        "since": use.since,
        "free_at": use.free_at,
    }


def _waiter(use: Use) -> dict[str, Any]:
    return {
        "position": use.position,
        "run": use.run_id,
        "job": use.job,
        "task_run": use.task_run_id,
        "task": use.task,
        "priority": f"P{use.priority}",
        "since": use.since,
    }


class LockCall(serializers.Serializer):
    """A lock as it shall be."""

    capacity = serializers.IntegerField(min_value=1)
    description = serializers.CharField(required=False, max_length=500)


class LockReleaseCall(serializers.Serializer):
    """Whose hold on the lock ends, and why."""

    task_run = serializers.IntegerField()
    reason = serializers.CharField(max_length=400)


class LockReleaseAnswer(serializers.Serializer):
    """What was released. A holder that is `running` goes on without the lock."""

    lock = serializers.CharField()
    run = serializers.IntegerField()
    task_run = serializers.IntegerField()
    task = serializers.CharField()
    state = serializers.CharField()
    message = serializers.CharField()


def lock_release_answer(name: str, released: ReleasedHolder) -> dict[str, Any]:
    return {
        "lock": name,
        "run": released.run_id,
        "task_run": released.task_run_id,
        "task": released.task,
        "state": released.state,
        "message": released.text,
    }
