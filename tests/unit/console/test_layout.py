"""Pictures of DAGs: every task has its place, time goes to the right, and the same DAG looks the same again."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.console.layout import HEIGHT, WIDTH, layout


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(1, 60))
    chosen = random.Random(draw(st.integers(0, 10**6)))
    share = draw(st.sampled_from([0.02, 0.1, 0.4]))
    return count, [(up, down) for down in range(count) for up in range(down) if chosen.random() < share]


@given(dags())
@settings(max_examples=60, deadline=None)
def test_no_two_tasks_overlap_and_every_edge_leads_to_the_right(dag):
    count, edges = dag

    places = layout(count, edges).places

    assert len(places) == count
    for up, down in edges:
        assert places[down].x - places[up].x >= WIDTH
    for i, one in enumerate(places):
        for other in places[i + 1 :]:
            assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    assert min(place.x for place in places) == 0
    assert min(place.y for place in places) >= 0


@given(dags())
@settings(max_examples=20, deadline=None)
def test_the_same_dag_always_has_the_same_picture(dag):
    count, edges = dag

    assert layout(count, edges) == layout(count, list(edges))


def test_a_version_without_tasks_has_an_empty_picture():
    assert list(layout(0, []).places) == []


def test_a_chain_is_one_straight_line():
    places = layout(5, [(i, i + 1) for i in range(4)]).places

    assert {place.y for place in places} == {0}


def test_a_diamond_is_symmetric():
    start, upper, lower, end = layout(4, [(0, 1), (0, 2), (1, 3), (2, 3)]).places

    assert upper.x == lower.x
    assert start.y == end.y == (upper.y + lower.y) / 2


def test_tasks_that_cross_are_put_into_the_order_of_their_upstreams():
    places = layout(4, [(0, 3), (1, 2)]).places

    assert (places[0].y < places[1].y) == (places[3].y < places[2].y)


def test_a_fan_out_of_a_thousand_is_a_block_and_not_a_thread():
    places = layout(1002, [(0, i) for i in range(1, 1001)] + [(i, 1001) for i in range(1, 1001)]).places

    width, height = max(place.x for place in places), max(place.y for place in places)
    assert 0.5 < width / height < 6


def test_an_edge_over_a_layer_goes_around_the_task_in_it():
    picture = layout(3, [(0, 1), (1, 2), (0, 2)])

    assert list(picture.bends) == [2]
    assert all(abs(bend.y - picture.places[1].y) > HEIGHT / 2 for bend in picture.bends[2])


def test_ten_thousand_tasks_all_get_a_place():
    chosen = random.Random(1)
    edges = [
        (up, down) for down in range(1, 10_000) for up in chosen.sample(range(max(0, down - 50), down), min(down, 3))
    ]

    assert len(set(layout(10_000, edges).places)) == 10_000
