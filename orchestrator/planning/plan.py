"""The planner: what becomes of waiting tasks, given the states of their upstreams. Pure."""

from __future__ import annotations

from orchestrator.planning.decisions import Decision
from orchestrator.planning.neighbourhood import Neighbourhood
from orchestrator.planning.readiness import decide


def plan(near: Neighbourhood) -> list[Decision]:
    """Decide each candidate that can be decided, in the order of their positions.

    A task it closes decides others in turn: those are the next neighbourhood, not part of this one, so that the cost
    of an advance follows the number of changed tasks.
    """
    decisions = (decide(candidate, near) for candidate in sorted(near.candidates, key=lambda c: c.position))
    return [decision for decision in decisions if decision is not None]
