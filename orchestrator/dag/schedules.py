"""Checks the form of cron texts and time zones; when a schedule fires is decided elsewhere."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: name, lowest, highest, names of its values beginning with the lowest
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?P<low>\*|[a-z0-9]{1,3})(?:-(?P<high>[a-z0-9]{1,3}))?(?:/(?P<step>\d{1,3}))?")


def cron_problem(text: str) -> str | None:
    """Return what is wrong with a cron text of five fields, or None."""
    fields = text.split()
    if len(fields) != 5 or len(text) > 200:
        return f"{len(fields)} fields instead of 5: minute, hour, day of the month, month, day of the week"
    for field, (name, lowest, highest, words) in zip(fields, _FIELDS, strict=True):
        for part in field.lower().split(","):
            if not _is_part(part, lowest, highest, words):
                return f"{name} {field!r} is not in {lowest}-{highest}"
    return None


def is_timezone(name: str) -> bool:
    """Whether the name is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # unknown, a path outside the database, a directory in it
        return False
    return True


def _is_part(part: str, lowest: int, highest: int, words: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(part)
    if found is None:
        return False
    if found["step"] is not None and not 1 <= int(found["step"]) <= highest:
        return False
    if found["low"] == "*":
        return found["high"] is None
    low = _number(found["low"], lowest, words)
    high = low if found["high"] is None else _number(found["high"], lowest, words)
    return low is not None and high is not None and lowest <= low <= high <= highest


def _number(text: str, lowest: int, words: tuple[str, ...]) -> int | None:
    if text.isdecimal():
        return int(text)
    return words.index(text) + lowest if text in words else None
