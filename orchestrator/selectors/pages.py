"""A page of a list: at most so many rows after a cursor, and the cursor of the next page. Never a count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from django.db.models import QuerySet

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    items: list[Row]
    #: What the next call gives as its cursor; None at the end.
    next: str | None


def page_of(rows: QuerySet, *, limit: int, cursor_of: Callable[[Row], object]) -> Page[Row]:
    """Read one page of ordered rows, with one query."""
    found = list(rows[: limit + 1])
    more = len(found) > limit
    items = found[:limit]
    return Page(items, str(cursor_of(items[-1])) if more else None)
