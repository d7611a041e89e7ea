"""Durations and sizes as definitions write them: `30`, `"5m"`, `"512Mi"`. Pure."""

from __future__ import annotations

import re

DURATION = 'a duration such as 30, "30s", "5m", "2h" or "1d"'
SIZE = 'a size such as 1048576, "512Mi" or "2Gi"'

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(Ki|Mi|Gi|Ti)")
_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def seconds_of(text: str) -> float | None:
    """Return the seconds that a text such as `5m` means, or None."""
    found = _DURATION.fullmatch(text)
    return float(found[1]) * _SECONDS[found[2]] if found else None


def bytes_of(text: str) -> int | None:
    """Return the bytes that a text such as `512Mi` means, or None."""
    found = _SIZE.fullmatch(text)
    return int(float(found[1]) * _BYTES[found[2]]) if found else None


def duration_text(seconds: float) -> str | float | int:
    """Return the shortest way to write a duration."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return int(seconds) if seconds == int(seconds) else seconds


def size_text(size: int) -> str | int:
    """Return the shortest way to write a size."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return size
