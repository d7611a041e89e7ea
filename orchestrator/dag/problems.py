"""What is wrong with a definition: each problem with its path, line and column, the value, and what was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

Path = tuple[str | int, ...]

#: Values are quoted at most so long: a problem is a line for a person.
VALUE_CHARACTERS = 120
#: How many names suggestions may look at per definition; beyond it they are left out, not slow.
SUGGESTION_BUDGET = 20_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `path` is text such as `tasks[3].depends_on[0].task`, empty for the whole document."""

    path: str
    line: int | None
    column: int | None
    value: Any
    expected: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        position = "" if self.line is None else f"{self.line}:{self.column}: "
        found = "" if self.value is None else f"; found {_quoted(self.value)}"
        expected = f"; expected {self.expected}" if self.expected else ""
        return f"{position}{self.path or '(document)'}: {self.message}{found}{expected}"


class TooManyProblems(Exception):
    """The list of problems is full; control flow inside the parser."""


def path_text(path: Path) -> str:
    """Return the path as people write it: `tasks[3].depends_on[0].task`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(_clipped(step), ensure_ascii=False)}]"
    return text


def shown(value: Any) -> Any:
    """Return the value as a problem may carry it: short, and JSON data."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _clipped(value)
    if isinstance(value, Mapping):
        # A big mapping or list is named, not quoted: quoting it would cost more than reading it did.
        return f"{len(value)} fields" if len(value) > 5 else _clipped(_brief(value))
    if isinstance(value, (list, tuple)):
        return f"{len(value)} entries" if len(value) > 10 else _clipped(_brief(value))
    return _clipped(str(value))


class Suggestions:
    """Finds the nearest right name, within a budget of comparisons."""

    def __init__(self) -> None:
        self._left = SUGGESTION_BUDGET

    def nearest(self, word: str, names: Iterable[str]) -> str | None:
        if len(word) > 64 or self._left <= 0:
            return None
        near = [name for name in names if abs(len(name) - len(word)) <= 3]
        self._left -= len(near)
        if self._left < 0:
            return None
        found = get_close_matches(word, near, n=1, cutoff=0.6)
        return found[0] if found else None


def _brief(value: Any, depth: int = 2) -> str:
    if isinstance(value, Mapping):
        if depth == 0:
            return "{…}"
        return "{" + ", ".join(f"{key}: {_brief(item, depth - 1)}" for key, item in list(value.items())[:6]) + "}"
    if isinstance(value, (list, tuple)):
        if depth == 0:
            return "[…]"
        return "[" + ", ".join(_brief(item, depth - 1) for item in value[:11]) + "]"
    return _clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _clipped(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
