"""What would follow if a task ended now: the same as the planner would decide, to the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.planning.previews import Followed, what_follows
from orchestrator.states import TaskState
from tests.support.graphs import graph_of


def followed(
    drawing: str, states: Mapping[str, str], results: Mapping[str, Any] | None = None, **ends: str
) -> Followed:
    graph, _ = graph_of(drawing)
    places = {name: place for place, name in enumerate(graph.names)}
    return what_follows(
        graph,
        {place: TaskState(states.get(name, "waiting")) for name, place in places.items()},
        settled={places[name]: TaskState(state) for name, state in ends.items()},
        results={places[name]: value for name, value in (results or {}).items()},
    )


def named(drawing: str, found: Followed) -> tuple[dict[str, str], list[str], int]:
    names = graph_of(drawing)[0].names
    return (
        {names[decision.position]: decision.state.value for decision in found.closed},
        [names[place] for place in found.started],
        found.still_open,
    )


@pytest.mark.parametrize(
    ("drawing", "states", "end", "expected"),
    [
        pytest.param(
            "a -> b -> c -> d", {"a": "ready"}, {"a": "skipped"},
            ({"b": "skipped", "c": "skipped", "d": "skipped"}, [], 0),
            id="a skip closes all that needs its success",
        ),
        pytest.param(
            "a -> b -> c", {"a": "ready"}, {"a": "succeeded"}, ({}, ["b"], 2),
            id="a mark starts what follows, and no more than that",
        ),
        pytest.param(
            "a, b -> c", {"a": "ready", "b": "running"}, {"a": "succeeded"}, ({}, [], 2),
            id="a join of all waits for the other one",
        ),
        pytest.param(
            "a, b -> c; c: join=any", {"a": "ready", "b": "running"}, {"a": "skipped"}, ({}, [], 2),
            id="a join of any is still open while one may open",
        ),
        pytest.param(
            "a -[skipped]-> b; a -> c", {"a": "ready"}, {"a": "skipped"}, ({"c": "skipped"}, ["b"], 1),
            id="a dependency on the skip opens",
        ),
        pytest.param(
            "a -[when: results.a.n > 5]-> b", {"a": "ready"}, {"a": "succeeded"}, ({"b": "failed"}, [], 0),
            id="a condition on a result that a mark does not give cannot be evaluated",
        ),
        pytest.param(
            "a -> c; b -> c", {"a": "ready", "b": "failed"}, {"a": "skipped"}, ({"c": "upstream_failed"}, [], 0),
            id="beside a failure what follows ends upstream_failed",
        ),
    ],
)  # fmt: skip
def test_what_follows_is_what_the_planner_decides(
    drawing: str, states: dict[str, str], end: dict[str, str], expected: tuple[dict[str, str], list[str], int]
) -> None:
    assert named(drawing, followed(drawing, states, **end)) == expected


def test_ten_thousand_tasks_in_a_row_are_followed_to_the_end() -> None:
    drawing = " -> ".join(f"t{number}" for number in range(10_000))

    found = followed(drawing, {"t0": "ready"}, t0="skipped")

    assert (len(found.closed), found.still_open) == (9_999, 0)
