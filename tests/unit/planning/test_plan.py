"""The planner by drawing: what becomes of waiting tasks once their upstreams have ended."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.decisions import CloseTask, Decision, StartTask
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.planning.plan import plan
from orchestrator.states import TaskState
from tests.support.graphs import graph_of

SUCCEEDED, FAILED, TIMED_OUT = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT
SKIPPED, UPSTREAM_FAILED, CANCELLED = TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED


def near(
    drawing: str, results: dict[str, Any] | None = None, params: dict[str, Any] | None = None, **states: TaskState
) -> tuple[Neighbourhood, tuple[str, ...]]:
    """The neighbourhood of a drawing in which the named tasks have these states, and all others wait."""
    graph, tasks = graph_of(drawing)
    known = {position: states.get(name, TaskState.WAITING) for position, name in enumerate(graph.names)}
    waiting = [position for position, state in known.items() if state == TaskState.WAITING]
    return Neighbourhood(
        candidates=tuple(Candidate(p, tasks[p].join, graph.dependencies[p]) for p in waiting),
        states=known,
        names=dict(enumerate(graph.names)),
        results={graph.positions[name]: value for name, value in (results or {}).items()},
        parameters=params,
    ), graph.names


def named(decisions: list[Decision], names: tuple[str, ...]) -> dict[str, str]:
    return {names[d.position]: "ready" if isinstance(d, StartTask) else str(d.state) for d in decisions}


def decided(drawing: str, *, results: Any = None, params: Any = None, **states: TaskState) -> dict[str, str]:
    """Task → what one planning step makes of it."""
    neighbourhood, names = near(drawing, results, params, **states)
    return named(plan(neighbourhood), names)


def to_rest(drawing: str, *, results: Any = None, **states: TaskState) -> dict[str, str]:
    """Repeat the plan until it decides nothing; what it starts stays ready."""
    everything: dict[str, str] = {}
    while step := decided(drawing, results=results, **states):
        everything |= step
        states |= {name: TaskState(state) for name, state in step.items()}
    return everything


def test_roots_start_at_once_and_the_rest_waits() -> None:
    assert decided("a -> b; c") == {"a": "ready", "c": "ready"}


def test_a_success_opens_what_follows_and_no_more() -> None:
    assert decided("extract -> transform -> load", extract=SUCCEEDED) == {"transform": "ready"}


def test_a_failed_upstream_closes_the_path_below_it() -> None:
    assert to_rest("extract -> transform -> load", extract=FAILED) == {
        "transform": "upstream_failed",
        "load": "upstream_failed",
    }


def test_a_skipped_upstream_skips_the_path_below_it() -> None:
    assert to_rest("extract -> transform -> load", extract=SKIPPED) == {"transform": "skipped", "load": "skipped"}


def test_the_reason_of_a_closed_task_names_its_upstream_and_what_was_needed() -> None:
    neighbourhood, _ = near("extract -> load", extract=FAILED)

    assert plan(neighbourhood) == [CloseTask(1, UPSTREAM_FAILED, "extract ended failed, needed success")]


def test_decisions_come_in_the_order_of_positions() -> None:
    neighbourhood, _ = near("start -> part*5", start=SUCCEEDED)

    assert plan(neighbourhood) == [StartTask(position) for position in range(1, 6)]


@pytest.mark.parametrize(
    ("status", "opening"),
    [
        ("success", {SUCCEEDED}),
        ("failed", {FAILED, TIMED_OUT}),
        ("skipped", {SKIPPED}),
        ("done", {SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, SKIPPED, UPSTREAM_FAILED}),
    ],
)
@pytest.mark.parametrize("outcome", [SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, SKIPPED, UPSTREAM_FAILED])
def test_a_dependency_opens_exactly_for_the_outcomes_of_its_status(
    status: str, opening: set[TaskState], outcome: TaskState
) -> None:
    bad = outcome in {FAILED, TIMED_OUT, CANCELLED, UPSTREAM_FAILED}
    closed = "upstream_failed" if bad else "skipped"

    assert decided(f"a -[{status}]-> b", a=outcome) == {"b": "ready" if outcome in opening else closed}


@pytest.mark.parametrize("state", [TaskState.READY, TaskState.RUNNING, TaskState.RETRY_WAITING, TaskState.DEFERRED])
def test_an_open_upstream_decides_nothing(state: TaskState) -> None:
    assert decided("a -[done]-> b", a=state) == {}


class TestJoinAll:
    DRAWING = "a, b -> end"

    def test_waits_for_the_last_upstream(self) -> None:
        assert decided(self.DRAWING, a=SUCCEEDED, b=TaskState.RUNNING) == {}

    def test_is_ready_when_all_opened(self) -> None:
        assert decided(self.DRAWING, a=SUCCEEDED, b=SUCCEEDED) == {"end": "ready"}

    def test_ends_with_the_first_that_closes(self) -> None:
        assert decided(self.DRAWING, a=FAILED, b=TaskState.RUNNING) == {"end": "upstream_failed"}

    def test_a_failed_upstream_weighs_more_than_a_skipped_one(self) -> None:
        assert decided(self.DRAWING, a=SKIPPED, b=FAILED) == {"end": "upstream_failed"}

    def test_a_success_that_was_not_wanted_skips(self) -> None:
        assert decided("a, b -[failed]-> alarm", a=SUCCEEDED, b=FAILED) == {"alarm": "skipped"}


class TestJoinAny:
    DRAWING = "a, b -> end; end: join=any"

    def test_is_ready_with_the_first_that_opens(self) -> None:
        assert decided(self.DRAWING, a=SUCCEEDED, b=TaskState.RUNNING) == {"end": "ready"}

    def test_one_that_closes_decides_nothing(self) -> None:
        assert decided(self.DRAWING, a=FAILED, b=TaskState.RUNNING) == {}

    def test_ends_when_all_closed(self) -> None:
        assert decided(self.DRAWING, a=SKIPPED, b=SKIPPED) == {"end": "skipped"}
        assert decided(self.DRAWING, a=SKIPPED, b=CANCELLED) == {"end": "upstream_failed"}


class TestConditions:
    DRAWING = "count -[when: results.count.n > 5]-> load"

    def test_a_true_one_opens(self) -> None:
        assert decided(self.DRAWING, results={"count": {"n": 6}}, count=SUCCEEDED) == {"load": "ready"}

    def test_a_false_one_closes_and_the_reason_quotes_it(self) -> None:
        neighbourhood, _ = near(self.DRAWING, {"count": {"n": 5}}, count=SUCCEEDED)

        assert plan(neighbourhood) == [CloseTask(1, SKIPPED, "condition on count is false: results.count.n > 5")]

    def test_one_that_cannot_be_evaluated_fails_the_task_it_ends(self) -> None:
        neighbourhood, _ = near(self.DRAWING, {"count": None}, count=SUCCEEDED)

        (decision,) = plan(neighbourhood)

        assert isinstance(decision, CloseTask)
        assert decision.state == FAILED
        assert decision.reason.startswith("condition on count could not be evaluated: ")

    def test_it_is_not_asked_when_the_status_does_not_match(self) -> None:
        assert decided(self.DRAWING, results={"count": None}, count=FAILED) == {"load": "upstream_failed"}

    def test_one_that_cannot_be_evaluated_ends_no_task_that_another_dependency_opens(self) -> None:
        drawing = "count -[when: results.count.n > 5]-> load; other -> load; load: join=any"

        assert decided(drawing, results={"count": None}, count=SUCCEEDED, other=SUCCEEDED) == {"load": "ready"}

    def test_one_that_cannot_be_evaluated_fails_an_any_join_once_all_have_closed(self) -> None:
        drawing = "count -[when: results.count.n > 5]-> load; other -> load; load: join=any"

        assert decided(drawing, results={"count": None}, count=SUCCEEDED, other=FAILED) == {"load": "failed"}

    def test_it_reads_parameters(self) -> None:
        drawing = "a -[when: params.full]-> b"

        assert decided(drawing, params={"full": True}, a=SUCCEEDED) == {"b": "ready"}
        assert decided(drawing, params={"full": False}, a=SUCCEEDED) == {"b": "skipped"}


def test_planning_what_was_planned_decides_nothing() -> None:
    drawing = "a, b -> c -[failed]-> d; b -> e"
    states = {"a": FAILED, "b": SUCCEEDED}

    once = to_rest(drawing, **states)

    assert once == {"c": "upstream_failed", "d": "upstream_failed", "e": "ready"}
    assert decided(drawing, **states, **{name: TaskState(state) for name, state in once.items()}) == {}
