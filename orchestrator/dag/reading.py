"""Typed reading of located values: each reader returns the value, or None after it has recorded the problem."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from orchestrator.dag.problems import Path, Problem, Suggestions, TooManyProblems, path_text, shown
from orchestrator.dag.yaml_source import Limits, Node
from orchestrator.expressions.environment import KEYWORDS
from orchestrator.units import DURATION, SIZE, bytes_of, seconds_of

JOB_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
LOCK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

#: A longer wait than a year is a mistake of unit, and some databases' intervals end not far beyond.
LONGEST = 366 * 86400.0

#: An address space has 64 bits, of which no machine offers more.
_LARGEST = 2**48


class ProblemList:
    """Collects the problems of one document, each located in its node tree."""

    def __init__(self, root: Node, limits: Limits, found: Iterable[Problem] = ()) -> None:
        self.root = root
        self.limits = limits
        self.found = list(found)
        self._suggestions = Suggestions()

    def add(self, path: Path, message: str, expected: str, value: Any = None, *, at_key: bool = False) -> None:
        """Record a problem; raises TooManyProblems when the list is full."""
        if len(self.found) >= self.limits.problems:
            message = "there are more problems; these are the first"
            self.found.append(Problem("", None, None, None, "", message))
            raise TooManyProblems
        node = self.root.nearest(path)
        line, column = node.line, node.column
        if at_key and path:
            owner = self.root.nearest(path[:-1])
            line, column = owner.key_places.get(str(path[-1]), (line, column))
        self.found.append(Problem(path_text(path), line, column, shown(value), expected, message))

    def nearest(self, word: str, names: Iterable[str]) -> str | None:
        return self._suggestions.nearest(word, names)

    def unknown(self, path: Path, what: str, name: str, names: Collection[str], *, at_key: bool = False) -> None:
        """Record a name that is not known, with the nearest right one."""
        near = self.nearest(name, names)
        if near is not None:
            expected = f"{near}?"
        elif len(names) <= 20:
            expected = f"one of {', '.join(sorted(names))}" if names else f"no {what}"
        else:
            expected = f"a known {what}"
        self.add(path, f"unknown {what}", expected, name, at_key=at_key)


class Value:
    """A located value that is about to be read as some type."""

    __slots__ = ("node", "path", "problems")

    def __init__(self, node: Node, path: Path, problems: ProblemList) -> None:
        self.node = node
        self.path = path
        self.problems = problems

    @property
    def raw(self) -> Any:
        """The scalar itself; a dict or list of nodes otherwise."""
        return self.node.value

    def plain(self) -> Any:
        return self.node.plain()

    def refuse(self, message: str, expected: str) -> None:
        self.problems.add(self.path, message, expected, self.plain())

    def text(self, *, longest: int, shortest: int = 0, expected: str = "a text") -> str | None:
        value = self.raw
        if not isinstance(value, str):
            self.refuse("wrong type", expected)
            return None
        if len(value) > longest:
            self.refuse(f"too long ({len(value)} characters)", f"at most {longest} characters")
            return None
        if len(value.strip()) < shortest:
            self.refuse("empty", expected)
            return None
        return value

    def name(self, pattern: re.Pattern[str], what: str) -> str | None:
        value = self.raw
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(f"not a {what}", f"a text that matches {pattern.pattern}")
            return None
        if pattern is NAME and value in KEYWORDS:
            self.refuse(f"a {what} that is a word of the expression language", "another name")
            return None
        return value

    def boolean(self) -> bool | None:
        if not isinstance(self.raw, bool):
            self.refuse("wrong type", "true or false")
            return None
        return self.raw

    def integer(self, low: int, high: int) -> int | None:
        if not isinstance(self.raw, int) or isinstance(self.raw, bool) or not low <= self.raw <= high:
            self.refuse("not in range" if is_number(self.raw) else "wrong type", f"an integer, {low} to {high}")
            return None
        return self.raw

    def choice(self, choices: Collection[str]) -> str | None:
        value = self.raw
        if isinstance(value, str) and value in choices:
            return value
        near = self.problems.nearest(value, choices) if isinstance(value, str) else None
        self.refuse("not a known value", f"{' | '.join(choices)}" + (f" ({near}?)" if near else ""))
        return None

    def duration(self, *, zero: bool = False) -> float | None:
        value = self.raw
        seconds = seconds_of(value) if isinstance(value, str) else float(value) if is_number(value) else None
        if seconds is None:
            self.refuse("not a duration", DURATION)
            return None
        if not 0 <= seconds <= LONGEST or (seconds == 0 and not zero):
            self.refuse("duration out of range", f"{'from' if zero else 'more than'} 0 to 366d")
            return None
        return seconds

    def size(self) -> int | None:
        value = self.raw
        size = bytes_of(value) if isinstance(value, str) else value if is_number(value) else None
        if size is None or isinstance(size, float):
            self.refuse("not a size", SIZE)
            return None
        if not 0 < size <= _LARGEST:
            self.refuse("size out of range", "more than 0 to 256Ti")
            return None
        return size

    def items(self, *, longest: int | None = None, expected: str = "a list") -> list[Value]:
        value = self.raw
        if not isinstance(value, list):
            self.refuse("wrong type", expected)
            return []
        if longest is not None and len(value) > longest:
            self.refuse("too long", f"at most {longest} entries")
            return []
        return [Value(node, (*self.path, index), self.problems) for index, node in enumerate(value)]

    def form(self, known: Collection[str], *, what: str = "field", expected: str = "a mapping") -> Form | None:
        """Read a mapping whose fields are `known`; every other one is a problem. None if it is no mapping."""
        if not isinstance(self.raw, dict):
            self.refuse("wrong type", expected)
            return None
        form = Form(self)
        for name in form:
            if name not in known:
                self.problems.unknown((*self.path, name), what, name, known, at_key=True)
        return form


class Form:
    """The fields of a mapping."""

    def __init__(self, value: Value) -> None:
        assert isinstance(value.node.value, dict)
        self._fields = value.node.value
        self.path = value.path
        self.problems = value.problems
        self.value = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Value | None:
        node = self._fields.get(name)
        return None if node is None else Value(node, (*self.path, name), self.problems)

    def required(self, name: str, expected: str) -> Value | None:
        value = self.get(name)
        if value is None:
            self.problems.add((*self.path, name), "missing", expected)
        return value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
