"""`wait`: succeeds after a time or at a moment, and holds no worker meanwhile: the attempt is deferred."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from orchestrator.registry import FieldProblem, TaskType
from orchestrator.units import DURATION, duration_text, seconds_of
from workers.executors.base import LONGEST_DEFERRAL, ExecutionContext, ExecutionResult, FailureKind

MOMENT = 'a moment with its zone, such as "2026-12-01T08:00:00+08:00"'
#: RFC 3339: date, time with seconds, zone.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
#: A wait that is so nearly over is over: the database keeps moments to the microsecond, the rest is rounding.
_ROUNDING = 0.001
_FIELDS = ("for", "until")


def _check(config: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """What is wrong with the fields as they are written; a placeholder may become anything."""
    yield from _count_problems(config)
    for name, value in config.items():
        if name in _FIELDS and isinstance(value, str) and "${" not in value:
            yield from _value_problems(name, value)


def _count_problems(config: Mapping[str, Any]) -> Iterator[FieldProblem]:
    if not any(name in config for name in _FIELDS):
        yield FieldProblem(("for",), "missing", f"for: {DURATION}, or until: {MOMENT}")
    elif all(name in config for name in _FIELDS):
        yield FieldProblem(("until",), "for and until together", "either for or until", config["until"])


def _value_problems(name: str, value: Any) -> Iterator[FieldProblem]:
    if name == "until":
        if _moment(value) is None:
            yield FieldProblem(("until",), "not a moment", MOMENT, value)
        return
    seconds = _seconds(value)
    if seconds is None:
        yield FieldProblem(("for",), "not a duration", DURATION, value)
    elif seconds >= LONGEST_DEFERRAL:
        yield FieldProblem(("for",), "duration out of range", "less than 366d", value)


def _takes(config: Mapping[str, Any]) -> float | None:
    return _seconds(config.get("for"))


TYPE = TaskType(
    name="wait",
    label="Wait",
    schema={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "for": {
                "type": ["string", "number"],
                "minimum": 0,
                "exclusiveMaximum": LONGEST_DEFERRAL,
                "description": "How long, such as 10m.",
            },
            "until": {"type": "string", "description": "Until when: a moment with its zone, as RFC 3339 writes it."},
        },
    },
    check=_check,
    # The usual hour is meant for work that hangs.
    default_timeout=LONGEST_DEFERRAL,
    takes=_takes,
)


class WaitExecutor:
    """Defers its attempt until the time has come, by the database's clock."""

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        if context.stop.requested:
            return ExecutionResult.failed(FailureKind.STOPPED, context.stop.reason or "stopped")
        for problem in _problems(context.config):
            name = str(problem.path[0])
            value = f" {problem.value!r}:" if problem.value is not None else ""
            reason = f"{name}:{value} {problem.message}; expected {problem.expected}"
            return ExecutionResult.failed(FailureKind.PERMANENT, reason)
        if "for" in context.config:
            seconds = _seconds(context.config["for"]) or 0.0
            left, reason = seconds - context.elapsed, f"waits {duration_text(seconds)}"
        else:
            moment = _moment(context.config["until"]) or context.claimed_at
            left, reason = (moment - context.claimed_at).total_seconds(), f"waits until {moment.isoformat()}"
        if left <= _ROUNDING:
            return ExecutionResult.succeeded()
        if left >= LONGEST_DEFERRAL:
            return ExecutionResult.failed(FailureKind.PERMANENT, f"{reason}: that is a year or more away")
        return ExecutionResult.deferred(left, reason)


def _problems(config: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """What is wrong with the rendered fields."""
    for name in config.keys() - set(_FIELDS):
        yield FieldProblem((name,), "unknown field", "for or until")
    yield from _count_problems(config)
    for name, value in config.items():
        yield from _value_problems(name, value)


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        return seconds_of(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _moment(value: Any) -> datetime | None:
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value.upper())
    except ValueError:  # the 31st of February
        return None
