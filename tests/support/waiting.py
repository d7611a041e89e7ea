"""Waiting for something to become true, with the last value in the failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(
    condition: Callable[[], Value],
    *,
    within: float = 10.0,
    every: float = 0.05,
    saying: str = "",
    ignoring: tuple[type[Exception], ...] = (),
) -> Value:
    """Return the first truthy value of `condition`; fail after `within` seconds with the last one.

    Exceptions named in `ignoring` count as "not yet"; the last of them is the cause of the failure.
    """
    deadline = time.monotonic() + within
    last: object = None
    cause: Exception | None = None
    while True:
        try:
            value = condition()
        except ignoring as error:
            last, cause = error, error
        else:
            if value:
                return value
            last, cause = value, None
        if time.monotonic() >= deadline:
            what = saying or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{what}: not within {within:g} s; last value {last!r}") from cause
        time.sleep(every)


def stays(condition: Callable[[], object], *, during: float, every: float = 0.05, saying: str = "") -> None:
    """Fail if `condition` stops holding before `during` seconds have passed."""
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        value = condition()
        if not value:
            raise AssertionError(f"{saying or 'the condition'} stopped holding; last value {value!r}")
        time.sleep(every)
