from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.graph import Graph
from orchestrator.planning.reruns import REPEATED, Parts, Start, parts_of
from orchestrator.states import TASK_FINAL, TaskState
from tests.support.graphs import graph_of

S, F, K, C = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED
U = TaskState.UPSTREAM_FAILED
CHAIN = graph_of("a -> b -> c; a -> d")[0]


def named(graph: Graph, parts: Parts) -> tuple[str, str, str]:
    """repeated, marked, carried: the tasks of each, in the order of positions."""
    return tuple(  # type: ignore[return-value]  # of three
        "".join(graph.names[position] for position in sorted(part))
        for part in (parts.repeated, parts.marked, parts.carried)
    )


def parts(ended: str, start: Start | str, **marks: TaskState) -> tuple[str, str, str]:
    """Parts of `a -> b -> c; a -> d`, ended as the letters a, b, c, d say."""
    letters = {"S": S, "F": F, "K": K, "C": C, "U": U}
    by_name = dict(zip("abcd", ended, strict=False))
    graph = CHAIN
    states = {graph.positions[name]: letters[letter] for name, letter in by_name.items()}
    chosen: Start = start if start in ("start", "failed") else [graph.positions[name] for name in start]
    return named(
        graph,
        parts_of(graph, states, start=chosen, marks={graph.positions[name]: state for name, state in marks.items()}),
    )


def test_from_the_start_everything_runs_again() -> None:
    assert parts("SSSS", "start") == ("abcd", "", "")


def test_from_failed_what_failed_runs_again_with_all_downstream_of_it() -> None:
    assert parts("SFUS", "failed") == ("bc", "", "ad")
    assert parts("SCCS", "failed") == ("bc", "", "ad")


def test_from_failed_of_a_run_without_failure_nothing_runs_again() -> None:
    assert parts("SKKS", "failed") == ("", "", "abcd")


def test_chosen_tasks_run_again_with_all_downstream_of_them() -> None:
    assert parts("SSSS", "b") == ("bc", "", "ad")
    assert parts("SSSF", "c") == ("c", "", "abd")


def test_a_failed_task_that_is_marked_does_not_run_but_what_follows_it_does() -> None:
    assert parts("SFUS", "failed", b=S) == ("c", "b", "ad")
    assert parts("SFUS", "failed", b=K) == ("c", "b", "ad")


def test_a_mark_outside_the_chosen_part_repeats_what_follows_it() -> None:
    assert parts("SFUS", "d", b=S) == ("cd", "b", "a")


def test_a_mark_that_says_what_the_task_was_carries_it() -> None:
    assert parts("SSSS", "start", a=S) == ("bcd", "", "a")
    assert parts("SFUS", "failed", a=S) == ("bc", "", "ad")


def test_a_run_that_never_started_repeats_everything() -> None:
    assert parts("", "failed") == ("abcd", "", "")
    assert parts("", "c", a=S) == ("bcd", "a", "")


@given(st.data())
def test_every_task_is_in_one_part_and_nothing_downstream_of_a_repeated_one_is_carried(data: st.DataObject) -> None:
    graph = graph_of("a -> b, c -> d -> e; c -> f; g -> e")[0]
    everything = range(len(graph))
    states = {position: data.draw(st.sampled_from(sorted(TASK_FINAL))) for position in everything}
    marks = data.draw(st.dictionaries(st.sampled_from(everything), st.sampled_from([S, K]), max_size=3))
    start = data.draw(st.sampled_from(["start", "failed"]) | st.lists(st.sampled_from(everything)))

    found = parts_of(graph, states, start=start, marks=marks)

    assert sorted([*found.repeated, *found.marked, *found.carried]) == list(everything)
    for position in found.repeated:
        assert not any(down in found.carried and down not in marks for down in graph.downstream[position])
    if start == "failed":
        assert all(position in marks for position in found.carried if states[position] in REPEATED)
