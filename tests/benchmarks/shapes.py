"""The shapes that are measured, as job definitions of no-op tasks."""

from __future__ import annotations

import random
from collections.abc import Iterable

from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec


def single() -> JobSpec:
    return JobSpec(name="single", tasks=(_noop("only"),))


def chain(length: int) -> JobSpec:
    return JobSpec(
        name=f"chain{length}",
        tasks=tuple(_noop(f"step_{i}", [f"step_{i - 1}"] if i else []) for i in range(length)),
    )


def fanout(width: int) -> JobSpec:
    """1 → width → 1."""
    middle = [f"part_{i}" for i in range(width)]
    tasks = (_noop("split"), *(_noop(name, ["split"]) for name in middle), _noop("join", middle))
    return JobSpec(name=f"fanout{width}", tasks=tasks)


def layered(layers: int, width: int, *, upstreams: int = 3, seed: int = 1) -> JobSpec:
    """Layers, each task with some random upstreams of the layer before."""
    chosen = random.Random(seed)
    tasks = []
    for layer in range(layers):
        for i in range(width):
            before = [f"layer_{layer - 1}_{u}" for u in chosen.sample(range(width), upstreams)] if layer else []
            tasks.append(_noop(f"layer_{layer}_{i}", before))
    return JobSpec(name=f"layered{layers}x{width}", tasks=tuple(tasks))


def dag(size: int, *, seed: int = 1) -> JobSpec:
    """Each task with 1 to 3 upstreams among the 100 before it."""
    chosen = random.Random(seed)
    tasks = []
    for i in range(size):
        before = range(max(0, i - 100), i)
        upstreams = chosen.sample(before, min(len(before), chosen.randint(1, 3)))
        tasks.append(_noop(f"task_{i}", [f"task_{u}" for u in upstreams]))
    return JobSpec(name=f"dag{size}", tasks=tuple(tasks))


def _noop(name: str, upstreams: Iterable[str] = ()) -> TaskSpec:
    return TaskSpec(name=name, type="noop", depends_on=tuple(DependencySpec(u) for u in upstreams), idempotent=True)
