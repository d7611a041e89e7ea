"""What would follow if tasks ended now: the planner's own decisions, level by level, with nothing written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.dag.graph import Graph
from orchestrator.planning.decisions import CloseTask
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.planning.plan import plan
from orchestrator.states import TASK_FINAL, TaskState


@dataclass(frozen=True, slots=True)
class Followed:
    """The tasks that change as a consequence, by position, and those that are left open."""

    closed: tuple[CloseTask, ...] = ()
    started: tuple[int, ...] = ()
    #: How many tasks are neither final nor closed by this: without any, the run ends.
    still_open: int = 0


def what_follows(
    graph: Graph,
    states: Mapping[int, TaskState],
    *,
    settled: Mapping[int, TaskState],
    results: Mapping[int, Any],
    parameters: Mapping[str, Any] | None = None,
    event: Mapping[str, Any] | None = None,
) -> Followed:
    """Return what the planner decides once `settled` tasks have ended so, and whatever that closes, to the end.

    `results` are the inline results that conditions read. A task that starts decides nothing yet.
    """
    now = {**states, **settled}
    names = dict(enumerate(graph.names))
    level = settled
    closed: list[CloseTask] = []
    started: set[int] = set()
    while level:
        downstream = sorted({down for position in level for down in graph.downstream[position]})
        candidates = tuple(
            Candidate(position, graph.tasks[position].join, graph.dependencies[position])
            for position in downstream
            if now[position] == TaskState.WAITING and position not in started
        )
        decisions = plan(Neighbourhood(candidates, now, names, results, parameters, event))
        level = {}
        for decision in decisions:
            if isinstance(decision, CloseTask):
                closed.append(decision)
                level[decision.position] = now[decision.position] = decision.state
            else:
                started.add(decision.position)
    closed.sort(key=lambda decision: decision.position)
    still_open = sum(state not in TASK_FINAL for state in now.values())
    return Followed(tuple(closed), tuple(sorted(started)), still_open)
