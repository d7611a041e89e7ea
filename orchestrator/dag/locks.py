"""`kind: Lock`: a named lock with its capacity, read from a definition and written as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from orchestrator.dag.reading import LOCK_NAME, Value

LOCK_FIELDS: Final = ("kind", "name", "capacity", "description")
#: More holders than this at once is no lock.
LARGEST_CAPACITY: Final = 100_000


@dataclass(frozen=True, slots=True)
class LockSpec:
    """A lock as it is defined."""

    name: str
    capacity: int = 1
    description: str = ""


def read_lock(root: Value) -> LockSpec | None:
    """Read a definition of a lock; None, with its problems recorded, if it is none."""
    form = root.form(LOCK_FIELDS)
    if form is None:
        return None
    given = form.required("name", "the lock's name")
    name = given.name(LOCK_NAME, "lock name") if given is not None else None
    given = form.get("capacity")
    capacity = 1 if given is None else given.integer(1, LARGEST_CAPACITY)
    given = form.get("description")
    description = "" if given is None else given.text(longest=500)
    if name is None or capacity is None or description is None:
        return None
    return LockSpec(name, capacity, description)


def lock_form(spec: LockSpec) -> dict[str, Any]:
    """Return the definition as plain data."""
    form: dict[str, Any] = {"kind": "Lock", "name": spec.name, "capacity": spec.capacity}
    return form | ({"description": spec.description} if spec.description else {})
