"""When a dependency opens or closes, and what a join makes of several."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.dag.graph import Edge
from orchestrator.expressions.program import NotEvaluated, dependency_condition
from orchestrator.planning.decisions import CloseTask, Decision, StartTask
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.states import TASK_FINAL, TaskState

OPENING_STATES: dict[str, frozenset[TaskState]] = {
    "success": frozenset({TaskState.SUCCEEDED}),
    "failed": frozenset({TaskState.FAILED, TaskState.TIMED_OUT}),
    "skipped": frozenset({TaskState.SKIPPED}),
    "done": TASK_FINAL,
}

#: Upstream outcomes that make a task `upstream_failed` rather than `skipped`.
FAILED_UPSTREAMS = frozenset({TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED, TaskState.UPSTREAM_FAILED})


class Gate(Enum):
    """Where a dependency stands."""

    UNDECIDED = "undecided"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate with the words for it. `broken`: its condition could not be evaluated."""

    gate: Gate
    reason: str = ""
    broken: bool = False


UNDECIDED = Verdict(Gate.UNDECIDED)
OPEN = Verdict(Gate.OPEN)


def verdict_of(edge: Edge, near: Neighbourhood) -> Verdict:
    """Say whether a dependency opened, closed, or is not decided yet."""
    state = near.states[edge.upstream]
    if state not in TASK_FINAL:
        return UNDECIDED
    name = near.names.get(edge.upstream, f"task {edge.upstream}")
    if state not in OPENING_STATES[edge.status]:
        return Verdict(Gate.CLOSED, f"{name} ended {state}, needed {edge.status}")
    if not edge.when:
        return OPEN
    value = dependency_condition(edge.when, name).evaluate(
        {"params": near.parameters, "event": near.event, f"results.{name}": near.results.get(edge.upstream)}
    )
    if isinstance(value, NotEvaluated):
        return Verdict(Gate.CLOSED, f"condition on {name} could not be evaluated: {value.reason}", broken=True)
    return OPEN if value else Verdict(Gate.CLOSED, f"condition on {name} is false: {edge.when}")


def decide(candidate: Candidate, near: Neighbourhood) -> Decision | None:
    """Decide one waiting task, or None while its dependencies leave it open."""
    verdicts = [(edge, verdict_of(edge, near)) for edge in candidate.edges]
    closed = [(edge, verdict) for edge, verdict in verdicts if verdict.gate is Gate.CLOSED]
    opened = sum(verdict.gate is Gate.OPEN for _, verdict in verdicts)
    if candidate.join == "any":
        if opened or not verdicts:
            return StartTask(candidate.position)
        return _close(candidate, closed, near) if len(closed) == len(verdicts) else None
    if closed:
        return _close(candidate, closed, near)
    return StartTask(candidate.position) if opened == len(verdicts) else None


def _close(candidate: Candidate, closed: list[tuple[Edge, Verdict]], near: Neighbourhood) -> CloseTask:
    """End a task by its closed dependencies; the gravest of them gives state and reason."""
    for _, verdict in closed:
        if verdict.broken:
            return CloseTask(candidate.position, TaskState.FAILED, verdict.reason)
    for edge, verdict in closed:
        if near.states[edge.upstream] in FAILED_UPSTREAMS:
            return CloseTask(candidate.position, TaskState.UPSTREAM_FAILED, verdict.reason)
    return CloseTask(candidate.position, TaskState.SKIPPED, closed[0][1].reason)
