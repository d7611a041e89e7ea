"""What a re-run repeats of a run that has ended, and what it takes over. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.dag.graph import Graph
from orchestrator.states import TaskState

#: What "failed" starts from: tasks that did not come to a good end, their own fault or not.
REPEATED = frozenset({TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED, TaskState.UPSTREAM_FAILED})

Start = Literal["start", "failed"] | Collection[int]


@dataclass(frozen=True, slots=True)
class Parts:
    """The tasks of a re-run by position: each is in exactly one part."""

    #: Run again, as far as their dependencies open.
    repeated: frozenset[int]
    #: Ended by a person's word instead of being run.
    marked: Mapping[int, TaskState]
    #: Taken over with state and result, so that every dependency on them is decided as it was.
    carried: frozenset[int]


def parts_of(
    graph: Graph, states: Mapping[int, TaskState], *, start: Start, marks: Mapping[int, TaskState] | None = None
) -> Parts:
    """Divide the tasks of a run with these final states; a run that never started has none, and repeats all.

    What is downstream of a repeated task is repeated, and so is what is downstream of a mark that changes something. A
    mark that says what the task already was carries it, with its result: so a whole re-run may leave one task out.
    """
    marks = marks or {}
    everything = range(len(graph))
    if start == "start":
        seeds = set(everything)
    elif start == "failed":
        seeds = {position for position, state in states.items() if state in REPEATED}
    else:
        seeds = set(start)
    seeds |= set(everything) - states.keys()
    kept = {position for position, state in marks.items() if states.get(position) == state}
    reached = seeds | (marks.keys() - kept)
    for position in everything:  # topological: upstreams come first
        if any(edge.upstream in reached for edge in graph.dependencies[position]):
            reached.add(position)
    # A mark of a failed task is a seed of "failed" too, but what it is itself the mark says.
    repeated = frozenset(reached - marks.keys())
    marked = {position: state for position, state in sorted(marks.items()) if position not in kept}
    return Parts(repeated, marked, frozenset(set(everything) - repeated - marked.keys()))
