"""Reading the fields of a rule: each reader returns the value, or None after it has recorded the problem."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.dag.problems import Suggestions, path_text, shown
from orchestrator.units import DURATION, seconds_of

Path = tuple[str | int, ...]

#: A longer wait than a year is a mistake of unit.
LONGEST: Final = 366 * 86400.0
#: Levels that a value of a rule may nest.
DEEPEST: Final = 32


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """One problem of a rule, at `path` such as `dedupe.window` or `parameters.note`, empty for the whole rule."""

    path: str
    value: Any
    expected: str
    message: str

    def __str__(self) -> str:
        return f"{self.path or 'the rule'}: {self.message}; expected {self.expected}"


class Problems:
    """Collects the problems of one rule, in the order in which they are found."""

    def __init__(self) -> None:
        self.found: list[RuleProblem] = []
        self._suggestions = Suggestions()

    def add(self, path: Path, message: str, expected: str, value: Any = None) -> None:
        self.found.append(RuleProblem(path_text(path), shown(value), expected, message))

    def unknown(self, path: Path, what: str, name: str, known: Collection[str]) -> None:
        """Record a name that is not known, with the nearest right one."""
        near = self._suggestions.nearest(name, known)
        self.add(path, f"unknown {what}", f"{near}?" if near else f"one of {', '.join(known)}", name)


class Fields:
    """The fields of a mapping of the rule. A field that is null is one that is not given."""

    def __init__(self, data: Mapping[str, Any], problems: Problems, path: Path = ()) -> None:
        self._data = data
        self.problems = problems
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def only(self, known: Collection[str]) -> Fields:
        """Record every field that is not `known`."""
        for name in self._data:
            if name not in known:
                self.problems.unknown((*self.path, name), "field", name, known)
        return self

    def raw(self, name: str) -> Any:
        return self._data.get(name)

    def refuse(self, name: str, message: str, expected: str) -> None:
        self.problems.add((*self.path, name), message, expected, self._data.get(name))

    def required(self, name: str, expected: str) -> bool:
        """Whether the field is given; records that it is missing."""
        if name in self:
            return True
        self.problems.add((*self.path, name), "missing", expected)
        return False

    def within(self, name: str, known: Collection[str]) -> Fields | None:
        """Return the fields of a nested mapping, None if it is not given or no mapping."""
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "wrong type", f"a mapping of {', '.join(known)}")
            return None
        return Fields(value, self.problems, (*self.path, name)).only(known)

    def text(self, name: str, *, longest: int, expected: str = "a text") -> str | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(name, "wrong type", expected)
            return None
        if len(value) > longest:
            self.refuse(name, f"too long ({len(value)} characters)", f"at most {longest} characters")
            return None
        return value

    def texts(self, name: str, *, longest: int, most: int, expected: str) -> tuple[str, ...]:
        """Read a text or a list of them, each once."""
        value = self._data.get(name)
        if value is None:
            return ()
        entries = value if isinstance(value, (list, tuple)) else [value]
        if not entries or len(entries) > most:
            self.refuse(name, "empty" if not entries else "too many", f"1 to {most} of {expected}")
            return ()
        read: list[str] = []
        for index, entry in enumerate(entries):
            if not isinstance(entry, str) or not entry or len(entry) > longest:
                path: Path = (*self.path, name, index) if entries is value else (*self.path, name)
                self.problems.add(path, "not such a text", f"{expected}, 1 to {longest} characters", entry)
            else:
                read.append(entry)
        return tuple(dict.fromkeys(read))

    def boolean(self, name: str) -> bool | None:
        value = self._data.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "wrong type", "true or false")
            return None
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, "not in range" if is_number(value) else "wrong type", f"an integer, {low} to {high}")
            return None
        return value

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        value = self._data.get(name)
        if value is None or (isinstance(value, str) and value in choices):
            return value
        self.refuse(name, "not a known value", " | ".join(choices))
        return None

    def duration(self, name: str) -> float | None:
        """Read a duration as seconds, more than 0."""
        value = self._data.get(name)
        if value is None:
            return None
        seconds = duration_of(value)
        if seconds is None:
            self.refuse(name, "not a duration", DURATION)
        elif not 0 < seconds <= LONGEST:
            self.refuse(name, "duration out of range", "more than 0 to 366d")
        else:
            return seconds
        return None


def duration_of(value: Any) -> float | None:
    """Return the seconds that a value means, None for what is no duration."""
    if isinstance(value, str):
        return seconds_of(value)
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_data(value: Any, problems: Problems) -> bool:
    """Whether a value is JSON data that every database stores; records what is not."""
    sound = True
    for path, message, expected in _unsound(value):
        problems.add(path, message, expected)
        sound = False
        if len(problems.found) >= 20:
            break
    return sound


def _unsound(value: Any) -> Iterator[tuple[Path, str, str]]:
    # Without recursion: how deep a value nests is its sender's choice.
    pending: list[tuple[Path, Any]] = [((), value)]
    while pending:
        path, item = pending.pop()
        if len(path) > DEEPEST:
            yield path[:3], f"nested more than {DEEPEST} levels deep", f"at most {DEEPEST} levels"
            return
        if isinstance(item, str):
            if not _is_text(item):
                yield path, "has characters that are no text", "a text without NUL and half characters"
        elif isinstance(item, Mapping):
            for key, inner in reversed(list(item.items())):
                if isinstance(key, str) and _is_text(key):
                    pending.append(((*path, key), inner))
                else:
                    yield path, "a key that is no text", "texts as keys"
        elif isinstance(item, (list, tuple)):
            pending += [((*path, index), inner) for index, inner in reversed(list(enumerate(item)))]
        elif isinstance(item, float) and not math.isfinite(item):
            yield path, "not a number", "a finite number"
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            yield path, "too large a number", "an integer of 64 bits; write a larger one as a text"
        elif item is not None and not isinstance(item, (bool, int, float)):
            yield path, f"a value of type {type(item).__name__}", "JSON data"


def _is_text(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
