"""The planner's only input: the tasks to decide, and what is known of their upstreams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.dag.graph import Edge
from orchestrator.states import TaskState


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting task whose dependencies may by now be decided."""

    position: int
    join: str
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Waiting tasks with the states of all their upstreams.

    `names` and `results` serve the `when` conditions alone: names of upstream tasks and their inline results.
    A `parameters` or `event` of None stands for empty.
    """

    candidates: tuple[Candidate, ...]
    states: Mapping[int, TaskState]
    names: Mapping[int, str] = field(default_factory=dict)
    results: Mapping[int, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    event: Mapping[str, Any] | None = None
