"""Differences of two exported definitions, as one text and side by side, aligned by the names of their entries.

The usual algorithm compares line by line and takes minutes for 5,000 changed tasks, whose lines are much alike. Here
tasks and parameters are matched by name, in one pass, and only what is within a matched pair is compared by lines.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

#: Pairs of lines that may be compared in all; beyond, what differs is shown as replaced.
BUDGET: Final = 4_000_000
CONTEXT: Final = 3

#: A field of the job, or an entry of one of its lists.
_START: Final = re.compile(r"[A-Za-z]|  - ")

Opcode = tuple[str, int, int, int, int]


def unified_diff(old: str, new: str, *, old_label: str, new_label: str) -> str:
    """Return the unified diff of two texts; empty if they are the same."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    opcodes = _merged(_opcodes(before, after))
    hunks = list(_Aligned(opcodes).get_grouped_opcodes(CONTEXT)) if any(op[0] != "equal" for op in opcodes) else []
    if not hunks:
        return ""
    lines = [f"--- {old_label}\n", f"+++ {new_label}\n"]
    for hunk in hunks:
        lines.append(f"@@ -{_range(hunk[0][1], hunk[-1][2])} +{_range(hunk[0][3], hunk[-1][4])} @@\n")
        for tag, a_low, a_high, b_low, b_high in hunk:
            if tag == "equal":
                lines += [f" {line}" for line in before[a_low:a_high]]
                continue
            lines += [f"-{line}" for line in before[a_low:a_high]]
            lines += [f"+{line}" for line in after[b_low:b_high]]
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class Side:
    """A line of one of two texts: its number from 1, its text, and from where to where it differs from its partner."""

    number: int
    text: str
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """What stands side by side: equal lines, a changed one and its partner, or a line that the other text has not."""

    kind: Literal["equal", "changed", "removed", "added", "left_out"]
    old: Side | None = None
    new: Side | None = None
    #: Equal lines that are not shown, of `left_out`.
    count: int = 0


def side_by_side(old: str, new: str, *, context: int = CONTEXT) -> list[Pair]:
    """Return the lines of two texts next to each other; of what is equal only what is near to a change."""
    before, after = old.splitlines(), new.splitlines()
    pairs: list[Pair] = []
    for tag, a_low, a_high, b_low, b_high in _merged(
        _opcodes(old.splitlines(keepends=True), new.splitlines(keepends=True))
    ):
        if tag == "equal":
            pairs += [
                Pair("equal", Side(a_low + step + 1, before[a_low + step]), Side(b_low + step + 1, after[b_low + step]))
                for step in range(a_high - a_low)
            ]
            continue
        common = min(a_high - a_low, b_high - b_low)
        pairs += [
            _changed(a_low + step, before[a_low + step], b_low + step, after[b_low + step]) for step in range(common)
        ]
        pairs += [Pair("removed", Side(at + 1, before[at], 0, len(before[at]))) for at in range(a_low + common, a_high)]
        pairs += [
            Pair("added", None, Side(at + 1, after[at], 0, len(after[at]))) for at in range(b_low + common, b_high)
        ]
    return _near_changes(pairs, context)


def _changed(a: int, before: str, b: int, after: str) -> Pair:
    shorter = min(len(before), len(after))
    low = 0
    while low < shorter and before[low] == after[low]:
        low += 1
    tail = 0
    while tail < shorter - low and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    return Pair("changed", Side(a + 1, before, low, len(before) - tail), Side(b + 1, after, low, len(after) - tail))


def _near_changes(pairs: Sequence[Pair], context: int) -> list[Pair]:
    near = [False] * len(pairs)
    for at, pair in enumerate(pairs):
        if pair.kind != "equal":
            for place in range(max(0, at - context), min(len(pairs), at + context + 1)):
                near[place] = True
    kept: list[Pair] = []
    hidden = 0
    for pair, is_near in zip(pairs, near, strict=True):
        if is_near and hidden:
            kept.append(Pair("left_out", count=hidden))
            hidden = 0
        if is_near:
            kept.append(pair)
        else:
            hidden += 1
    if hidden:
        kept.append(Pair("left_out", count=hidden))
    return kept


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines from `low` to `high` that belong to one entry, and what it is called."""

    key: tuple[str, str]
    low: int
    high: int


class _Aligned(SequenceMatcher[str]):
    """Groups opcodes that are known already."""

    def __init__(self, opcodes: list[Opcode]) -> None:
        super().__init__()
        self._known = opcodes

    def get_opcodes(self) -> list[Opcode]:  # type: ignore[override]  # the stubs name the tags one by one
        return self._known


def _opcodes(before: Sequence[str], after: Sequence[str]) -> Iterator[Opcode]:
    old, new = _blocks(before), _blocks(after)
    compare = _Comparison(before, after)
    a = b = 0
    for i, j in _matched(old, new):
        yield from compare.lines(a, old[i].low, b, new[j].low)
        yield from compare.lines(old[i].low, old[i].high, new[j].low, new[j].high)
        a, b = old[i].high, new[j].high
    yield from compare.lines(a, len(before), b, len(after))


def _blocks(lines: Sequence[str]) -> list[_Block]:
    starts = [index for index, line in enumerate(lines) if _START.match(line)]
    blocks, section = [], ""
    for low, high in zip(starts, [*starts[1:], len(lines)][: len(starts)], strict=True):
        if not lines[low].startswith(" "):
            section = lines[low].partition(":")[0]
        # A field is one by its name, whatever its value; an entry by its first line, which names it.
        blocks.append(_Block((section, lines[low] if lines[low].startswith(" ") else ""), low, high))
    return blocks


def _matched(old: Sequence[_Block], new: Sequence[_Block]) -> list[tuple[int, int]]:
    """Return pairs of blocks of one name, as many as keep their order, by the longest increasing subsequence."""
    places: dict[tuple[str, str], int] = {}
    for j, block in enumerate(new):
        places[block.key] = -1 if block.key in places else j
    seen: dict[tuple[str, str], int] = {}
    for block in old:
        seen[block.key] = seen.get(block.key, 0) + 1
    ends: list[int] = []  # the smallest last place of a subsequence of each length
    last: list[int] = []  # the pair that it ends with
    pairs: list[tuple[int, int, int]] = []  # (old, new, the pair before)
    for i, block in enumerate(old):
        j = places.get(block.key, -1)
        if j < 0 or seen[block.key] > 1:
            continue
        length = bisect_left(ends, j)
        pairs.append((i, j, last[length - 1] if length else -1))
        if length == len(ends):
            ends.append(j)
            last.append(len(pairs) - 1)
        else:
            ends[length] = j
            last[length] = len(pairs) - 1
    found = []
    at = last[-1] if last else -1
    while at >= 0:
        i, j, at = pairs[at]
        found.append((i, j))
    return found[::-1]


class _Comparison:
    """Compares stretches of lines within one budget."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        self._before = before
        self._after = after
        self._left = BUDGET

    def lines(self, a_low: int, a_high: int, b_low: int, b_high: int) -> Iterator[Opcode]:
        old, new = self._before[a_low:a_high], self._after[b_low:b_high]
        if old == new:
            if old:
                yield ("equal", a_low, a_high, b_low, b_high)
            return
        self._left -= len(old) * len(new)
        if not old or not new or self._left < 0:
            tag = "insert" if not old else "delete" if not new else "replace"
            yield (tag, a_low, a_high, b_low, b_high)
            return
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            yield (tag, a_low + i1, a_low + i2, b_low + j1, b_low + j2)


def _merged(opcodes: Iterator[Opcode]) -> list[Opcode]:
    """Join stretches of equal lines, so that a long one is recognised as such."""
    merged: list[Opcode] = []
    for opcode in opcodes:
        if merged and opcode[0] == merged[-1][0] == "equal":
            merged[-1] = ("equal", merged[-1][1], opcode[2], merged[-1][3], opcode[4])
        else:
            merged.append(opcode)
    return merged


def _range(low: int, high: int) -> str:
    length = high - low
    # Of an empty range the line before it is named.
    start = low + 1 if length else low
    return str(start) if length == 1 else f"{start},{length}"
