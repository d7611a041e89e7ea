"""What a definition may say of a `wait` task."""

from __future__ import annotations

import pytest

from orchestrator.dag.export import export_yaml
from orchestrator.dag.spec import TaskSpec
from tests.support.definitions import job, only_problem, problems_of, spec_of

PARAMETERS = """
parameters:
  - {name: pause, type: string, default: 5m}
  - {name: start, type: datetime, default: "2026-12-01T08:00:00+08:00"}
"""


def wait(fields: str, head: str = "") -> str:
    return job(f"- {{name: pause, type: wait, {fields}}}", head)


def task(fields: str, head: str = "") -> TaskSpec:
    return spec_of(wait(fields, head)).tasks[0]


@pytest.mark.parametrize(
    "fields",
    [
        "for: 10m",
        "for: 0.5",
        "for: 0",
        "for: 365d",
        'until: "2026-12-01T08:00:00+08:00"',
        "until: 2026-12-01T08:00:00Z",
        'for: "${params.pause}"',
        'until: "${params.start}"',
        "for: 10m, timeout: 11m",
        'for: "${params.pause}", timeout: 1s',
    ],
)
def test_a_duration_or_a_moment_is_enough(fields: str) -> None:
    assert problems_of(wait(fields, PARAMETERS)) == []


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ("idempotent: true", "tasks[0].for", "or until: a moment"),
        ('for: 10m, until: "2026-12-01T08:00:00Z"', "tasks[0].until", "either for or until"),
        ("for: soon", "tasks[0].for", "a duration such as"),
        ("for: 366d", "tasks[0].for", "less than 366d"),
        ("for: 40000000", "tasks[0].for", "exclusive maximum 31622400"),
        ("for: [10m]", "tasks[0].for", "string"),
        ('until: "2026-12-01T08:00:00"', "tasks[0].until", "a moment with its zone"),
        ('until: "2026-12-01"', "tasks[0].until", "a moment with its zone"),
        ("until: 8", "tasks[0].until", "string"),
        ("for: 10m, timeout: 10m", "tasks[0].timeout", "more than the 10m"),
        ("for: 10m, timeout: 5m", "tasks[0].timeout", "more than the 10m"),
        ("fro: 10m, for: 1m", "tasks[0].fro", "for"),
    ],
)
def test_anything_else_is_a_problem_with_its_path(fields: str, path: str, expected: str) -> None:
    problem = only_problem(wait(fields))

    assert problem.path == path
    assert expected in problem.expected
    assert problem.line is not None


def test_a_refused_value_is_shown() -> None:
    assert only_problem(wait("for: soon")).value == "soon"
    assert only_problem(wait("for: 10m, timeout: 5m")).value == "5m"


def test_neither_the_usual_hour_nor_the_jobs_defaults_end_a_wait_and_its_own_timeout_does() -> None:
    head = "defaults: {timeout: 1m}"

    assert task("for: 30d", head).timeout == 366 * 86400
    assert task("for: 10m, timeout: 30m", head).timeout == 1800
    assert spec_of(job("- {name: a, type: noop}", head)).tasks[0].timeout == 60


@pytest.mark.parametrize("timeout", ["", ", timeout: 1h", ", timeout: 366d", ", timeout: 11m"])
def test_an_export_means_the_same(timeout: str) -> None:
    spec = spec_of(wait(f"for: 10m{timeout}"))

    again = spec_of(export_yaml(spec))

    assert again.content_hash() == spec.content_hash()
    assert type(spec).from_canonical(spec.canonical()) == spec
