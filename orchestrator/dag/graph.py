"""The order of a job's tasks: positions, edges, ancestors, critical path, and the loop where there is one.

Positions are topological and stable: tasks come in the order of the definition as far as their dependencies
allow, so the same definition has the same positions everywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from orchestrator.dag.spec import DependencyStatus, JobSpec, TaskSpec

#: A loop's message names at most so many tasks.
LOOP_NAMES = 12


class Edge(NamedTuple):
    """A dependency as its downstream task sees it. A tuple: a job may have 50,000, and these are made fastest."""

    upstream: int
    status: DependencyStatus = "success"
    when: str | None = None
    recovers: bool = False


class CycleInSpec(ValueError):
    """The dependencies run in a circle; `loop` names it in the order of execution, the first task again at the end."""

    def __init__(self, loop: tuple[str, ...]) -> None:
        self.loop = loop
        super().__init__(f"the dependencies run in a circle: {loop_text(loop)}")


@dataclass(frozen=True)
class Graph:
    """The tasks of a spec by position. `dependencies` and `downstream` are indexed by position."""

    names: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    dependencies: tuple[tuple[Edge, ...], ...]
    downstream: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, spec: JobSpec) -> Graph:
        """Build the graph in linear time; raises CycleInSpec, or KeyError for an upstream that is no task."""
        index = {task.name: number for number, task in enumerate(spec.tasks)}
        upstream = [[index[edge.task] for edge in task.depends_on] for task in spec.tasks]
        order = topological_order(upstream)
        if len(order) < len(spec.tasks):
            loop = find_loops(upstream)[0]
            raise CycleInSpec(tuple(spec.tasks[number].name for number in loop))
        position = [0] * len(order)
        for place, number in enumerate(order):
            position[number] = place
        tasks = tuple(spec.tasks[number] for number in order)
        downstream: list[list[int]] = [[] for _ in order]
        dependencies: list[tuple[Edge, ...]] = []
        for place, number in enumerate(order):
            edges = tuple(
                [
                    Edge(position[index[edge.task]], edge.status, edge.when, edge.recovers)
                    for edge in spec.tasks[number].depends_on
                ]
            )
            dependencies.append(edges)
            for edge in edges:
                downstream[edge.upstream].append(place)
        return cls(
            names=tuple(task.name for task in tasks),
            tasks=tasks,
            dependencies=tuple(dependencies),
            downstream=tuple(tuple(places) for places in downstream),
        )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Positions by task name."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """Positions of the tasks that depend on nothing."""
        return tuple(position for position, edges in enumerate(self.dependencies) if not edges)

    @property
    def edge_count(self) -> int:
        return sum(map(len, self.dependencies))

    def ancestors(self, position: int) -> frozenset[int]:
        """Return all positions that lead to this one."""
        return self._reached(position, [[edge.upstream for edge in edges] for edges in self.dependencies])

    def descendants(self, position: int) -> frozenset[int]:
        """Return all positions that this one leads to."""
        return self._reached(position, self.downstream)

    def critical_path(self, seconds: Mapping[str, float] | None = None) -> tuple[int, ...]:
        """Return the longest chain of tasks: by the given durations, else by the number of tasks."""
        if not self.names:
            return ()
        ends = [0.0] * len(self)
        before: list[int | None] = [None] * len(self)
        for position, edges in enumerate(self.dependencies):
            latest = max((edge.upstream for edge in edges), key=ends.__getitem__, default=None)
            before[position] = latest
            own = 1.0 if seconds is None else seconds.get(self.names[position], 0.0)
            ends[position] = own + (ends[latest] if latest is not None else 0.0)
        place: int | None = max(range(len(self)), key=ends.__getitem__)
        path = []
        while place is not None:
            path.append(place)
            place = before[place]
        return tuple(reversed(path))

    @staticmethod
    def _reached(position: int, neighbours: Sequence[Sequence[int]]) -> frozenset[int]:
        reached: set[int] = set()
        frontier = [position]
        while frontier:
            for near in neighbours[frontier.pop()]:
                if near not in reached:
                    reached.add(near)
                    frontier.append(near)
        return frozenset(reached)


def topological_order(upstream: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers in the earliest order that the edges allow; those on or behind a loop are left out."""
    waits = [len(ups) for ups in upstream]
    downstream: list[list[int]] = [[] for _ in upstream]
    for number, ups in enumerate(upstream):
        for up in ups:
            downstream[up].append(number)
    # A heap, not a queue: among the tasks that may come next, the one that the definition names first.
    ready = [number for number, count in enumerate(waits) if count == 0]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for below in downstream[number]:
            waits[below] -= 1
            if waits[below] == 0:
                heapq.heappush(ready, below)
    return order


def find_loops(upstream: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return loops that share no task, in the order of execution, the first number again at the end.

    A depth-first walk without recursion: linear, at any depth.
    """
    new, on_path, done = 0, 1, 2
    state = [new] * len(upstream)
    loops: list[tuple[int, ...]] = []
    for start in range(len(upstream)):
        if state[start] != new:
            continue
        path = [start]
        place = {start: 0}
        pending = [iter(upstream[start])]
        # For each step of the path, the last step up to it that a loop already has (-1: none).
        taken = [-1]
        state[start] = on_path
        while path:
            for up in pending[-1]:
                if state[up] == new:
                    state[up] = on_path
                    place[up] = len(path)
                    path.append(up)
                    pending.append(iter(upstream[up]))
                    taken.append(taken[-1])
                    break
                if state[up] == on_path and taken[-1] < place[up]:
                    taken[place[up] :] = range(place[up], len(path))
                    # The walk went upstream; execution goes the other way. Begin where the definition does.
                    loop = path[place[up] :][::-1]
                    first = loop.index(min(loop))
                    loop = loop[first:] + loop[:first]
                    loops.append((*loop, loop[0]))
            else:
                finished = path.pop()
                pending.pop()
                taken.pop()
                state[finished] = done
                del place[finished]
    return sorted(loops)


def loop_text(names: Sequence[str]) -> str:
    """Return a loop as text, its middle left out when it is long."""
    if len(names) > LOOP_NAMES:
        half = LOOP_NAMES // 2
        names = [*names[:half], f"… ({len(names) - 1 - LOOP_NAMES} more)", *names[-half:]]
    return " -> ".join(names)
