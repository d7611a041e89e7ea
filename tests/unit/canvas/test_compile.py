"""The shape of fragments, without a broker."""

from __future__ import annotations

from orchestrator.canvas.compile import CHAIN_LINKS, CHORD_LIMIT, Chain, Chord, Piece, compile_ready
from tests.support.graphs import graph_of


def shape(drawing: str, ready: str = "", *, chords: bool = True) -> list[str]:
    """Fragments as text: `a`, `a > b` for a chain, `(a | b)` for a chord. All roots are ready unless said otherwise."""
    graph, tasks = graph_of(drawing)
    positions = [graph.positions[name] for name in ready.split()] or list(graph.roots)
    pieces = compile_ready(positions, graph=graph, tasks=tasks, chords=chords)
    return [_text(piece, graph.names) for piece in pieces]


def _text(piece: Piece, names: tuple[str, ...]) -> str:
    if isinstance(piece, Chain):
        return " > ".join(names[position] for position in piece.positions)
    if isinstance(piece, Chord):
        return f"({' | '.join(names[position] for position in piece.positions)})"
    return names[piece.position]


def test_a_linear_stretch_is_a_chain() -> None:
    assert shape("a -> b -> c") == ["a > b > c"]


def test_a_chain_has_at_most_twelve_links() -> None:
    assert CHAIN_LINKS == 12
    assert shape(" -> ".join(f"t{n}" for n in range(15))) == [" > ".join(f"t{n}" for n in range(12))]
    assert shape(" -> ".join(f"t{n}" for n in range(15)), "t12") == ["t12 > t13 > t14"]


def test_a_chain_ends_where_the_dag_forks_or_joins() -> None:
    assert shape("a -> b -> c, d") == ["a > b"]
    assert shape("a -> b -> end; c -> end") == ["a > b", "c"]


def test_a_chain_has_no_condition_no_other_status_and_no_lock_inside() -> None:
    assert shape("a -[when: params.x]-> b") == ["a"]
    assert shape("a -[failed]-> b") == ["a"]
    assert shape("a -[done]-> b") == ["a"]
    assert shape("a -> b -> c; b: locks=warehouse") == ["a"]
    assert shape("a -> b -> c; a: locks=warehouse") == ["a"]


def test_a_fan_out_that_joins_is_a_chord() -> None:
    drawing = "start -> p*4 -> end"

    assert shape(drawing) == ["start"]
    assert shape(drawing, "p_1 p_2 p_3 p_4") == ["(p_1 | p_2 | p_3 | p_4)"]


def test_a_fan_out_that_ends_the_run_is_a_chord() -> None:
    assert shape("a*5") == ["(a_1 | a_2 | a_3 | a_4 | a_5)"]


def test_a_narrow_fan_out_is_single_tasks() -> None:
    assert shape("p*3 -> end") == ["p_1", "p_2", "p_3"]


def test_without_a_counting_backend_a_fan_out_is_single_tasks() -> None:
    assert shape("p*4 -> end", chords=False) == ["p_1", "p_2", "p_3", "p_4"]


def test_a_join_of_any_or_with_a_condition_makes_no_chord() -> None:
    assert shape("p*4 -> end; end: join=any") == ["p_1", "p_2", "p_3", "p_4"]
    assert shape("p*4 -[when: params.x]-> end") == ["p_1", "p_2", "p_3", "p_4"]


def test_a_header_with_a_lock_or_another_way_out_is_no_part_of_the_chord() -> None:
    assert shape("p*5 -> end; p_2: locks=warehouse") == ["p_2", "(p_1 | p_3 | p_4 | p_5)"]
    assert shape("p*5 -> end; p_3 -> other") == ["p_3", "(p_1 | p_2 | p_4 | p_5)"]


def test_tasks_that_join_in_different_tasks_make_a_chord_each() -> None:
    assert shape("a*4 -> x; b*4 -> y") == ["(a_1 | a_2 | a_3 | a_4)", "(b_1 | b_2 | b_3 | b_4)"]


def test_a_chord_wider_than_the_limit_is_divided() -> None:
    graph, tasks = graph_of(f"p*{CHORD_LIMIT + 1} -> end")

    pieces = compile_ready(graph.roots, graph=graph, tasks=tasks)

    assert [len(piece.positions) for piece in pieces if isinstance(piece, Chord)] == [CHORD_LIMIT, 1]


def test_every_ready_task_is_in_exactly_one_fragment_as_its_head_or_header() -> None:
    graph, tasks = graph_of("a -> b; p*6 -> end; q -> end; r -> r1, r2; s*2 -> t; t: join=any; u: locks=l")

    heads: list[int] = []
    for piece in compile_ready(graph.roots, graph=graph, tasks=tasks):
        if isinstance(piece, Chord):
            heads += piece.positions
        else:
            heads.append(piece.positions[0] if isinstance(piece, Chain) else piece.position)

    assert sorted(heads) == sorted(graph.roots)
