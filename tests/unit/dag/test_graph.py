from __future__ import annotations

import time
from graphlib import TopologicalSorter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.graph import CycleInSpec, Edge, Graph, find_loops, loop_text
from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec


def spec(**upstream: str) -> JobSpec:
    return JobSpec(
        "example",
        tasks=tuple(
            TaskSpec(name, "noop", depends_on=tuple(DependencySpec(up) for up in ups.split()))
            for name, ups in upstream.items()
        ),
    )


def test_tasks_keep_the_order_of_the_definition_where_edges_allow():
    graph = Graph.of(spec(d="b", a="", b="", c="a"))

    assert graph.names == ("a", "b", "d", "c")


def test_edges_are_known_from_both_ends():
    graph = Graph.of(spec(a="", b="a", c="a b"))

    assert graph.dependencies == ((), (Edge(0),), (Edge(0), Edge(1)))
    assert graph.downstream == ((1, 2), (2,), ())
    assert graph.roots == (0,)
    assert graph.positions == {"a": 0, "b": 1, "c": 2}
    assert graph.edge_count == 3


def test_an_edge_keeps_what_the_dependency_says():
    task = TaskSpec("b", "noop", depends_on=(DependencySpec("a", "failed", "true", recovers=True),))

    graph = Graph.of(JobSpec("example", tasks=(TaskSpec("a", "noop"), task)))

    assert graph.dependencies[1] == (Edge(0, "failed", "true", True),)


def test_ancestors_and_descendants_are_followed_to_the_end():
    graph = Graph.of(spec(a="", b="a", c="b", d="", e="c d"))

    assert graph.ancestors(graph.positions["c"]) == {graph.positions["a"], graph.positions["b"]}
    assert graph.descendants(graph.positions["b"]) == {graph.positions["c"], graph.positions["e"]}


def test_the_critical_path_is_the_longest():
    graph = Graph.of(spec(a="", b="a", c="b", d="a"))

    assert [graph.names[place] for place in graph.critical_path()] == ["a", "b", "c"]
    assert [graph.names[place] for place in graph.critical_path({"a": 1, "b": 1, "c": 1, "d": 9})] == ["a", "d"]
    assert Graph.of(JobSpec("empty")).critical_path() == ()


def test_a_loop_is_named_in_the_order_of_execution():
    with pytest.raises(CycleInSpec) as caught:
        Graph.of(spec(start="", a="start c", b="a", c="b"))

    assert caught.value.loop == ("a", "b", "c", "a")


def test_a_task_that_depends_on_itself_is_a_loop():
    assert find_loops([[0]]) == [(0, 0)]


def test_every_separate_loop_is_found():
    assert find_loops([[1], [0], [3], [2], [0, 2]]) == [(0, 1, 0), (2, 3, 2)]


def test_a_long_loop_is_told_in_short():
    text = loop_text([f"t{number}" for number in range(100)])

    assert len(text) < 200
    assert "more)" in text


graphs = st.integers(1, 12).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, size - 1), unique=True, max_size=3), min_size=size, max_size=size)
)


@given(graphs)
def test_a_loop_is_found_exactly_when_there_is_one(upstream: list[list[int]]):
    loops = find_loops(upstream)

    for loop in loops:
        assert loop[0] == loop[-1]
        assert all(before in upstream[after] for before, after in pairwise(loop))
    inner = [number for loop in loops for number in loop[1:]]
    assert len(inner) == len(set(inner))
    try:
        list(TopologicalSorter(dict(enumerate(upstream))).static_order())
    except ValueError:
        assert loops
    else:
        assert not loops


@given(graphs)
def test_positions_are_topological_and_complete(upstream: list[list[int]]):
    acyclic = [[up for up in ups if up < number] for number, ups in enumerate(upstream)]
    job = JobSpec(
        "example",
        tasks=tuple(
            TaskSpec(f"t{number}", "noop", depends_on=tuple(DependencySpec(f"t{up}") for up in acyclic[number]))
            for number in reversed(range(len(acyclic)))
        ),
    )

    graph = Graph.of(job)

    assert sorted(graph.names) == sorted(task.name for task in job.tasks)
    for position, edges in enumerate(graph.dependencies):
        assert all(edge.upstream < position for edge in edges)
        assert all(position in graph.downstream[edge.upstream] for edge in edges)


def test_ten_thousand_tasks_take_tens_of_milliseconds():
    job = JobSpec(
        "big",
        tasks=tuple(
            TaskSpec(f"t{n}", "noop", depends_on=tuple(DependencySpec(f"t{up}") for up in range(max(0, n - 3), n)))
            for n in range(10_000)
        ),
    )

    best = min(_seconds(job) for _ in range(3))

    assert best < 1


def _seconds(job: JobSpec) -> float:
    started = time.process_time()
    Graph.of(job)
    return time.process_time() - started
