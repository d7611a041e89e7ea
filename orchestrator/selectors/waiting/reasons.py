from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Model, QuerySet

#: Things are counted up to here; beyond, "more than 1000" says enough and costs no more.
MOST_COUNTED: Final = 1000
#: Names of others that one text gives.
MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class WaitReason:
    """One reason. `code` is stable, `text` a sentence for people, `facts` what the text says, as data."""

    code: str
    text: str
    since: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def at(moment: datetime | None) -> str:
    """Write a moment to the second, with its zone."""
    return "an unknown time" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def because(reason: str) -> str:
    """Write a reason as the end of a sentence; empty for none."""
    return f": {reason}" if reason else ""


def by_whom(by: str) -> str:
    return f" by {by}" if by else ""


def counted(rows: QuerySet[Model]) -> int:
    """Count rows, up to one more than MOST_COUNTED."""
    return rows.order_by()[: MOST_COUNTED + 1].count()


def number(count: int, one: str = "", many: str = "") -> str:
    """Write a count of `counted`: `3 tasks`, `1 task`, `more than 1000 tasks`."""
    shown = f"more than {MOST_COUNTED}" if count > MOST_COUNTED else str(count)
    return f"{shown} {one if count == 1 else many}".rstrip()


def listed(names: list[str], count: int) -> str:
    """Write some of `count` names: `a, b and 3 more`."""
    left = count - len(names)
    return ", ".join(names) + (f" and {number(left)} more" if left > 0 else "")
