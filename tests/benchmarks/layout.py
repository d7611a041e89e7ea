"""Seconds to lay out a DAG of 2,000 tasks and one of 10,000: once per version, when somebody first looks at it.

The shapes: each task with one to three upstreams among those before it, near or anywhere, a fan-out that joins again, a
chain. The figure is the slowest of them. No server is asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from orchestrator.console.layout import layout
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, Required

Edges = list[tuple[int, int]]


def measure(bench: Bench) -> Figures:
    small, large = [], []
    for _ in range(bench.repeat):
        small.append(max(_seconds(2_000, edges) for edges in shapes(2_000).values()))
        large.append(max(_seconds(10_000, edges) for edges in shapes(10_000).values()))
    return Figures(
        "layout",
        "s",
        small,
        [Required("value", at_most=1), Required("tasks_10000_s", at_most=6)],
        settings={"shapes": sorted(shapes(10)), "value": "the slowest shape of 2,000 tasks"},
        extra={"tasks_10000_s": max(large)},
    )


def shapes(size: int) -> Mapping[str, Edges]:
    """Return the edges of each shape of this size."""
    return {
        "near": _random(size, within=100),
        "anywhere": _random(size, within=size),
        "fanout": [(0, i) for i in range(1, size - 1)] + [(i, size - 1) for i in range(1, size - 1)],
        "chain": [(i, i + 1) for i in range(size - 1)],
    }


def _random(size: int, *, within: int) -> Edges:
    chosen = random.Random(1)
    edges = []
    for down in range(1, size):
        before = range(max(0, down - within), down)
        edges += [(up, down) for up in chosen.sample(before, min(len(before), chosen.randint(1, 3)))]
    return edges


def _seconds(size: int, edges: Edges) -> float:
    began = time.perf_counter()
    picture = layout(size, edges)
    assert len(picture.places) == size
    return time.perf_counter() - began
