"""Named locks as people manage them: define, change, delete, and release one that a stuck holder keeps.

Capacity counts from the next grant on: a raise is granted at once, lowering takes nothing from anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.canvas import binding
from orchestrator.dag.locks import LARGEST_CAPACITY
from orchestrator.dag.reading import LOCK_NAME
from orchestrator.errors import Detail, InvalidRequest, Refused
from orchestrator.ledger import locks as ledger
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, record
from orchestrator.models import Lock, LockRequest, Tenant
from orchestrator.selectors.locks import UnknownLock, lock_of
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.transitions import record_transition
from orchestrator.states import TaskState


class LockInUse(Refused):
    """The lock is held or waited for."""

    code = "lock_in_use"


class LockNotHeld(Refused):
    """The task run does not hold the lock."""

    code = "lock_not_held"


@dataclass(frozen=True, slots=True)
class StoredLock:
    """A lock as it is stored now, and what that changed: `created`, `updated` or `unchanged`."""

    lock: Lock
    outcome: str


@dataclass(frozen=True, slots=True)
class ReleasedHolder:
    """A lock that a person took from its holder."""

    task_run_id: int
    run_id: int
    task: str
    #: The holder's state: one that is `running` goes on, without the lock.
    state: str
    #: What this means, for the person who did it.
    text: str


def set_lock(*, tenant: Tenant, name: str, capacity: int, description: str | None = None, by: str) -> StoredLock:
    """Define a lock, or change it; free slots are granted at once. Safe to call twice. Raises InvalidRequest.

    `description` None leaves it as it is.
    """
    stored = in_transaction(lambda: set_lock_within(tenant, name, capacity=capacity, description=description, by=by))
    after_set(stored)
    return stored


def set_lock_within(tenant: Tenant, name: str, *, capacity: int, description: str | None = None, by: str) -> StoredLock:
    """Define or change a lock inside the caller's transaction; `after_set` follows its commit."""
    _check(name, capacity, description)
    lock, created = Lock.objects.get_or_create(
        tenant=tenant,
        name=name,
        defaults={"capacity": capacity, "description": description or "", "updated_by": by[:200]},
    )
    if created:
        record_transition(
            subject="lock", subject_id=lock.pk, to_state="defined", reason=f"lock {name}: capacity {capacity}",
            cause="set_lock", by=by,
        )  # fmt: skip
        _record(lock, "lock.create", None, _shown(lock), by=by)
        return StoredLock(lock, "created")
    lock = Lock.objects.select_for_update().get(pk=lock.pk)
    changes = _changes(lock, capacity, description)
    if not changes:
        return StoredLock(lock, "unchanged")
    before = _shown(lock)
    lock.capacity = capacity
    lock.description = lock.description if description is None else description
    lock.updated_by = by[:200]
    lock.save(update_fields=["capacity", "description", "updated_by"])
    record_transition(
        subject="lock", subject_id=lock.pk, from_state="defined", to_state="defined",
        reason=f"lock {name}: {'; '.join(changes)}", cause="set_lock", by=by,
    )  # fmt: skip
    _record(lock, "lock.update", *changed(before, _shown(lock)), by=by)
    return StoredLock(lock, "updated")


def after_set(stored: StoredLock) -> None:
    """Grant what a change of capacity made free; call after its commit. Safe to call twice.

    In a transaction of its own: a grant locks the rows of other locks too, all in one order. Should this process die
    in between, the reconciler grants.
    """
    if stored.outcome != "unchanged":
        binding.publish(in_transaction(lambda: ledger.grant_free([stored.lock.pk])))


def plan_lock(*, tenant: Tenant, name: str, capacity: int, description: str) -> list[str]:
    """Return what `set_lock` would change, one sentence each; empty if nothing."""
    lock = Lock.objects.filter(tenant=tenant, name=name).first()
    if lock is None:
        return [f"create lock {name} with capacity {capacity}"]
    return _changes(lock, capacity, description)


def delete_lock(*, tenant_id: int, name: str, by: str) -> None:
    """Delete a lock that nobody holds or waits for. Raises UnknownLock, LockInUse.

    A task that names it makes it anew, with capacity 1.
    """

    def work() -> None:
        lock = Lock.objects.select_for_update().filter(tenant_id=tenant_id, name=name).first()
        if lock is None:
            raise UnknownLock(f"There is no lock {name!r}.")
        # Who asks for it stands before its row, so nobody can begin to use it meanwhile.
        held = LockRequest.objects.filter(lock=lock, granted_at__isnull=False).count()
        waiting = LockRequest.objects.filter(lock=lock, granted_at__isnull=True).count()
        if held or waiting:
            raise LockInUse(f"The lock {name!r} has {held} holders and {waiting} waiters; it stays.")
        record_transition(
            subject="lock", subject_id=lock.pk, from_state="defined", to_state="deleted", reason=f"lock {name}",
            cause="delete_lock", by=by,
        )  # fmt: skip
        _record(lock, "lock.delete", _shown(lock), None, by=by)
        lock.delete()

    in_transaction(work)


def release_holder(*, tenant_id: int, name: str, task_run_id: int, by: str, reason: str) -> ReleasedHolder:
    """Take a lock from a task run that holds it, and grant it on. Raises UnknownLock, LockNotHeld, InvalidRequest.

    A holder that runs goes on without the lock, side by side with the next one: the person vouches for it. One whose
    grant is not used yet goes to the end of the queue; a deferred one asks again when it is due. Called twice, the
    second finds nothing held.
    """
    if not reason.strip():
        raise InvalidRequest(
            "A lock is not released without a reason.", details=(Detail("reason", reason, "why, in a few words"),)
        )

    def work() -> tuple[ReleasedHolder, list[binding.Hint]]:
        lock = lock_of(tenant_id, name)
        freed = ledger.release_held(lock_id=lock.pk, task_run_id=task_run_id)
        if freed is None:
            raise LockNotHeld(f"Task run {task_run_id} does not hold the lock {name!r}.")
        row, hints = freed
        record(
            subject="task_run", subject_id=row.pk, run_id=row.run_id, old=row.state, new=row.state,
            now=database_now(), reason=f"lock {name} released: {reason.strip()}", cause="release_lock", by=by,
        )  # fmt: skip
        holder = {"task_run": row.pk, "run": row.run_id, "task": row.task.name, "state": row.state}
        _record(lock, "lock.release", {"holder": holder}, {"holder": None}, by=by, reason=reason.strip())
        released = ReleasedHolder(
            row.pk, row.run_id, row.task.name, row.state, _consequence(name, row.task.name, row.state)
        )
        return released, hints

    released, hints = in_transaction(work)
    binding.publish(hints)
    return released


def _consequence(lock: str, task: str, state: str) -> str:
    if state == TaskState.RUNNING:
        return f"{task} goes on running without the lock {lock}; cancel its run if it must not"
    if state == TaskState.READY:
        return f"{task} asks for the lock {lock} again, behind the others"
    if state == TaskState.DEFERRED:
        return f"{task} asks for the lock {lock} again when it is due"
    return f"the lock {lock} is free of {task}, whose worker had vanished"


def _shown(lock: Lock) -> dict[str, Any]:
    return {"capacity": lock.capacity, "description": lock.description}


def _record(lock: Lock, action: str, before: Any, after: Any, *, by: str, reason: str = "") -> None:
    record_audit(
        action=action, subject="lock", subject_id=lock.pk, subject_name=lock.name, tenant_id=lock.tenant_id, by=by,
        before=before, after=after, reason=reason,
    )  # fmt: skip


def _changes(lock: Lock, capacity: int, description: str | None) -> list[str]:
    changes = []
    if lock.capacity != capacity:
        changes.append(f"capacity {lock.capacity} → {capacity}")
    if description is not None and lock.description != description:
        changes.append("another description")
    return changes


def _check(name: str, capacity: int, description: str | None) -> None:
    problems = []
    if not LOCK_NAME.fullmatch(name):
        problems.append(Detail("name", name[:200], f"a text that matches {LOCK_NAME.pattern}"))
    if isinstance(capacity, bool) or not 1 <= capacity <= LARGEST_CAPACITY:
        problems.append(Detail("capacity", capacity, f"an integer, 1 to {LARGEST_CAPACITY}"))
    if description is not None and len(description) > 500:
        problems.append(Detail("description", description[:200], "at most 500 characters"))
    if problems:
        raise InvalidRequest("The lock cannot be stored.", details=tuple(problems))
