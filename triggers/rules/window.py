"""The hours in which a rule may start runs: five fields as in cron, read as "each minute that they match".

Wall-clock time of a zone decides. A minute that a change of the clock leaves out does not exist, and one that it
repeats is open twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RANGES: Final = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, _MONTHS), (0, 7, _DAYS))
#: Far enough for the 29th of February around a year such as 2100.
_HORIZON: Final = timedelta(days=366 * 9)
#: Every zone in use changes its clock at such a moment.
_STEP: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """When a rule may start runs, and what becomes of an event at any other time."""

    allow: str
    tz: str = "UTC"
    on_closed: Literal["hold", "drop"] = "hold"

    def is_open(self, at: datetime) -> bool:
        """Whether the window is open in the minute of `at`, an aware moment."""
        return _matcher(self.allow).matches(at.astimezone(_zone(self.tz)))

    def opening(self, at: datetime) -> datetime | None:
        """Return the first moment from `at` on at which the window is open; None if it never is."""
        if self.is_open(at):
            return at
        return _opening(self.allow, self.tz, at.astimezone(UTC).replace(second=0, microsecond=0))

    def ever_opens(self) -> bool:
        """Whether there is any minute at which the window is open."""
        return _opening(self.allow, self.tz, datetime(2024, 1, 1, tzinfo=UTC)) is not None


class _Matcher:
    """The five fields as sets."""

    def __init__(self, allow: str) -> None:
        texts = allow.lower().split()
        self.minutes, self.hours, self.days, self.months, weekdays = (
            _values(text, *limits) for text, limits in zip(texts, _RANGES, strict=True)
        )
        self.weekdays = frozenset(day % 7 for day in weekdays)
        # As in cron: where both kinds of day are given, one of them is enough.
        self.either_day = not texts[2].startswith("*") and not texts[4].startswith("*")

    def matches(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours and self.has_day(local)

    def has_day(self, local: datetime) -> bool:
        if local.month not in self.months:
            return False
        day, weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        return day or weekday if self.either_day else day and weekday


@lru_cache(maxsize=4096)
def _opening(allow: str, tz: str, after: datetime) -> datetime | None:
    matcher, zone = _matcher(allow), _zone(tz)
    at, end = after, after + _HORIZON
    while at < end:
        local = at.astimezone(zone)
        if not matcher.has_day(local):
            # The next midnight by the earlier reading, or just behind a change of the clock.
            midnight = datetime(local.year, local.month, local.day, tzinfo=zone) + timedelta(days=1)
            following = midnight.astimezone(UTC)
        elif local.hour not in matcher.hours:
            following = at - timedelta(minutes=at.minute % 15) + _STEP
        elif local.minute not in matcher.minutes:
            following = at + timedelta(minutes=1)
        else:
            return at
        at = following if following > at else at + timedelta(minutes=1)
    return None


@lru_cache(maxsize=1024)
def _matcher(allow: str) -> _Matcher:
    return _Matcher(allow)


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _values(field: str, lowest: int, highest: int, words: tuple[str, ...]) -> frozenset[int]:
    values: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        if low == "*":
            first, last = lowest, highest
        else:
            first = _number(low, lowest, words)
            # `5/15` begins at 5 and goes on to the end, as in cron.
            last = _number(high, lowest, words) if high else highest if step else first
        values.update(range(first, last + 1, int(step or 1)))
    return frozenset(values)


def _number(text: str, lowest: int, words: tuple[str, ...]) -> int:
    return int(text) if re.fullmatch(r"\d+", text) else words.index(text) + lowest


def as_form(window: WindowSpec) -> dict[str, Any]:
    """Return the window as a rule writes it."""
    return {"tz": window.tz, "allow": window.allow, "onClosed": window.on_closed}
