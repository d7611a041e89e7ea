"""Definitions from strangers: refused politely and soon, never a dead process."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.dag.yaml_source import Limits
from tests.support.definitions import parse, parse_all


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """CPU time on a machine of the usual speed; three times as much on a slow and busy one."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 3 * seconds


def big_job(tasks: int, edges_each: int) -> str:
    lines = ["kind: Job", "name: big", "tasks:"]
    for number in range(tasks):
        upstream = ", ".join(f"t{number - back}" for back in range(1, min(edges_each, number) + 1))
        lines.append(f"  - {{name: t{number}, type: noop, depends_on: [{upstream}]}}")
    return "\n".join(lines)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("10 MB of text", "a: " + "x" * 10_000_000, "at most 4194304 bytes"),
        ("10 MB of brackets", b"[" * 10_000_000, "at most 4194304 bytes"),
        ("a bomb of aliases", bomb(), "values, aliases counted"),
        ("open lists", "[" * 30_000, "at most 64 levels"),
        ("closed lists", "[" * 30_000 + "]" * 30_000, "at most 64 levels"),
        ("open mappings", "{a: " * 30_000, "at most 64 levels"),
        ("JSON", '{"a":' * 30_000, "at most 64 levels"),
        ("dashes", "- " * 30_000 + "x", "at most 64 levels"),
        ("question marks", "? " * 30_000, "at most 64 levels"),
        ("directives", "\n".join(f"%TAG !a{number}! x" for number in range(150_000)) + "\n--- a", "no directives"),
        ("documents", "--- a\n" * 600_000, "at most 100 documents"),
        ("10,001 tasks", big_job(10_001, 1), "at most 10000 tasks"),
        ("200,000 edges", big_job(10_001, 20), "at most 50000 dependencies"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_it_is_refused_within_two_seconds(name: str, text: str | bytes, expected: str):
    with within(2):
        definitions = parse_all(text)

    assert any(expected in str(problem) for definition in definitions for problem in definition.problems), name
    assert definitions[-1].spec is None


def test_levels_are_counted_through_aliases():
    lines = ["a0: &a0 " + "[" * 40 + "]" * 40]
    lines += [f"a{n}: &a{n} {'[' * 40}*a{n - 1}{']' * 40}" for n in range(1, 2_000)]

    found = parse("\n".join(lines)).problems

    assert "at most 64 levels" in str(found[0])
    assert found[0].line == 2


ARGS = "kind: Job\nname: a\ntasks: [{name: a, type: shell, command: x, args: ["
SMALL_TASKS = "kind: Job\nname: a\ntasks:\n"
HALF_A_MILLION = 500_000


@pytest.mark.parametrize(
    "text",
    [
        "[" + "&a x," * HALF_A_MILLION + "]",
        "[" + "1," * 2 * HALF_A_MILLION + "1]",
        "[" + "[]," * HALF_A_MILLION + "1]",
        "- 1\n" * HALF_A_MILLION,
        "{" + ",".join(f'"{number}":1' for number in range(HALF_A_MILLION // 2)) + "}",
        ARGS + "1," * HALF_A_MILLION + "1]}]",
        SMALL_TASKS + "".join(f"- {{name: t{n}, type: shell, args: [{'1,' * 50}]}}\n" for n in range(10_000)),
        SMALL_TASKS + "- {name: a, type: noop, depends_on: [{task: [" + "1," * HALF_A_MILLION + "1]}]}",
    ],
    ids=["anchors", "JSON", "empty lists", "dashes", "keys", "arguments", "many tasks", "in a dependency"],
)
def test_half_a_million_tiny_values_are_refused_soon_and_the_place_is_named(text: str):
    with within(4):
        found = parse(text).problems

    assert "at most 200000 values beside those of its dependencies" in str(found[-1])
    assert found[-1].line is not None


def test_as_many_tiny_values_as_are_allowed_are_read_within_two_seconds():
    with within(2):
        definition = parse(ARGS + "1," * 199_000 + "1]}]")

    assert definition.problems == ()


def test_dependencies_have_room_of_their_own():
    edges = [f"{{task: t{n}, status: done, when: 'true', recovers: false}}" for n in range(9)]
    tasks = [f"- {{name: t{n}, type: noop}}" for n in range(9)]
    tasks += [f"- {{name: u{n}, type: noop, depends_on: [{', '.join(edges)}]}}" for n in range(30)]

    text = SMALL_TASKS + "\n".join(tasks)

    assert parse(text, limits=Limits(nodes=400)).problems == ()
    assert "at most 200 values" in str(parse(text, limits=Limits(nodes=200)).problems[0])


def test_ten_thousand_tasks_with_thirty_thousand_edges_are_validated_in_seconds():
    text = big_job(10_000, 3)

    with within(4):
        definition = parse(text)

    assert definition.spec is not None
    assert len(definition.spec.tasks) == 10_000


def test_conditions_on_ten_thousand_edges_are_checked_in_seconds():
    lines = ["kind: Job", "name: big", "tasks:", "  - {name: t0, type: noop}"]
    lines += [
        f"  - {{name: t{n}, type: noop, depends_on: [{{task: t{n - 1}, when: 'results.t{n - 1}.n > {n}'}}]}}"
        for n in range(1, 10_000)
    ]

    with within(6):
        assert parse("\n".join(lines)).spec is not None


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_loops_are_named_in_seconds(seed: int):
    chance = random.Random(seed)
    lines = ["kind: Job", "name: big", "tasks:"]
    for number in range(5_000):
        upstream = ", ".join(f"t{other}" for other in chance.sample(range(5_000), 5))
        lines.append(f"  - {{name: t{number}, type: noop, depends_on: [{upstream}]}}")

    with within(4):
        found = parse("\n".join(lines)).problems

    assert any("run in a circle" in problem.message for problem in found)


def test_the_list_of_problems_has_an_end():
    text = "kind: Job\nname: big\ntasks:\n" + "\n".join(f"  - {{nam: t{n}, typ: noop}}" for n in range(9_000))

    with within(4):
        found = parse(text).problems

    assert len(found) == 1001
    assert any("there are more problems" in problem.message for problem in found)


def test_a_huge_value_is_quoted_in_part_only():
    found = parse("kind: Job\nname: " + "x" * 1_000_000 + "\ntasks: [{name: a, type: noop}]").problems

    assert len(str(found[0])) < 400
