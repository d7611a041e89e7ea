"""Ready tasks → bounded fragments. Pure; `binding.py` turns fragments into Celery's messages.

A linear stretch becomes a chain, a fan-out that joins again a chord, all else single tasks that the ledger joins.
Never the whole DAG: a statically compiled run would carry its rest in every message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from orchestrator.dag.graph import Graph
from orchestrator.dag.spec import TaskSpec

#: A chain carries its rest in every message: 12 links keep the first one under 6 KB.
CHAIN_LINKS = 12
#: Below this width, n plans cost less than a chord's counters and its extra message.
CHORD_WIDTH = 4
#: Redis counts a chord's parts in sets: measured flat up to here.
CHORD_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Single:
    """One task without a canvas link: `settle` makes its successors known."""

    position: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A linear stretch: each link is ready in the ledger before its message exists."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chord:
    """Tasks that all join in one task, or all end the run: planned together by `advance`."""

    positions: tuple[int, ...]


Piece = Single | Chain | Chord


def compile_ready(ready: Sequence[int], *, graph: Graph, tasks: Sequence[TaskSpec], chords: bool = True) -> list[Piece]:
    """Pack ready tasks into fragments, in the order of their positions.

    `tasks` is indexed by position. Without a backend that counts (`chords=False`) a fan-out is single tasks.
    """
    pieces: list[Piece] = []
    joining: dict[int | None, list[int]] = defaultdict(list)
    # Asked once for each join, not by each of its upstreams: a look at all its edges, 10,000 of them in a wide fan-out.
    counts = cache(lambda target: _counts_parts(target, graph, tasks))
    for position in sorted(ready):
        if chords and (target := _join_of(position, graph, tasks, counts)) != _NO_JOIN:
            joining[target].append(position)
        else:
            pieces.append(_stretch(position, graph, tasks))
    for positions in joining.values():
        if len(positions) < CHORD_WIDTH:
            pieces.extend(_stretch(position, graph, tasks) for position in positions)
            continue
        for start in range(0, len(positions), CHORD_LIMIT):
            pieces.append(Chord(tuple(positions[start : start + CHORD_LIMIT])))
    return pieces


_NO_JOIN = -1


def _join_of(position: int, graph: Graph, tasks: Sequence[TaskSpec], counts: Callable[[int], bool]) -> int | None:
    """Return the one task that follows and joins, None if the run ends here, `_NO_JOIN` if a chord does not fit."""
    if tasks[position].locks:
        return _NO_JOIN
    following = graph.downstream[position]
    if not following:
        return None
    if len(following) > 1:
        return _NO_JOIN
    return following[0] if counts(following[0]) else _NO_JOIN


def _counts_parts(target: int, graph: Graph, tasks: Sequence[TaskSpec]) -> bool:
    """Say whether a task waits for several upstreams and for nothing but their number."""
    edges = graph.dependencies[target]
    return len(edges) > 1 and tasks[target].join == "all" and not any(edge.when for edge in edges)


def _stretch(position: int, graph: Graph, tasks: Sequence[TaskSpec]) -> Piece:
    """Return the chain that starts here, or the single task."""
    positions = [position]
    while len(positions) < CHAIN_LINKS and not tasks[positions[-1]].locks:
        following = graph.downstream[positions[-1]]
        if len(following) != 1:
            break
        edges = graph.dependencies[following[0]]
        link = tasks[following[0]]
        if len(edges) != 1 or edges[0].when or edges[0].status != "success" or link.locks:
            break
        positions.append(following[0])
    return Chain(tuple(positions)) if len(positions) > 1 else Single(position)
