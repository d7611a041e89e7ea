"""Placeholders and conditions: what they may refer to, seen from the place where they stand."""

from __future__ import annotations

import pytest

from tests.support.definitions import job, only_problem, problems_of

CHAIN = """
- {name: a, type: noop}
- {name: b, type: noop, depends_on: [a]}
- {name: c, type: shell, command: x, depends_on: [b], args: ["ARG"]}
- {name: d, type: noop}
"""


def chain(argument: str) -> str:
    return job(CHAIN.replace("ARG", argument), "parameters: [{name: region, type: string}]")


@pytest.mark.parametrize(
    "argument",
    [
        "${results.a.n}",
        "${results.b}",
        "${params.region}",
        "${run.id}",
        "${biz_date-1d|%Y}",
        "${env}",
        "${event.x}",
        "$${HOME}",
    ],
)
def test_a_task_may_refer_to_ancestors_parameters_and_its_run(argument: str):
    assert problems_of(chain(argument)) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("${results.d.n}", "d is no ancestor of this task"),
        ("${results.c.n}", "c is no ancestor of this task"),
        ("${results.d.n:-1}", "d is no ancestor of this task"),
        ("${results.bb.n}", "unknown task in a placeholder"),
        ("${params.regoin}", "unknown parameter in a placeholder"),
        ("${HOME}", "bad placeholder: no such value; write $${ for a literal ${"),
        ("${params.region", "bad placeholder: a placeholder is not closed by `}`"),
    ],
)
def test_a_reference_to_anything_else_is_a_problem(argument: str, message: str):
    found = only_problem(chain(argument))

    assert (found.path, found.message) == ("tasks[2].args[0]", message)


def test_an_ancestor_behind_any_needs_a_default():
    tasks = """
    - {name: a, type: noop}
    - {name: b, type: noop}
    - {name: c, type: noop, join: any, depends_on: [a, b]}
    - {name: d, type: shell, command: x, depends_on: [c], args: ["ARG"]}
    """

    found = only_problem(job(tasks.replace("ARG", "${results.a.n}")))

    assert found.message == "a may not have ended when this task starts"
    assert found.expected == "a default: ${results.a.n:-…}"
    assert problems_of(job(tasks.replace("ARG", "${results.a.n:-0}"))) == []
    assert problems_of(job(tasks.replace("ARG", "${results.c.n}"))) == []


def test_an_ancestor_on_every_way_to_any_needs_none():
    tasks = """
    - {name: root, type: noop}
    - {name: a, type: noop, depends_on: [root]}
    - {name: b, type: noop, depends_on: [root]}
    - {name: c, type: shell, command: x, join: any, depends_on: [a, b], args: ["${results.root.n}"]}
    """

    assert problems_of(job(tasks)) == []


def test_what_stands_before_a_task_that_may_close_early_needs_a_default():
    # `c` ends as soon as `a` fails, while `b` still runs; `d` then starts.
    tasks = """
    - {name: a, type: noop}
    - {name: b, type: noop}
    - {name: c, type: noop, depends_on: [a, b]}
    - {name: d, type: shell, command: x, depends_on: [{task: c, status: done}], args: ["${results.b.n}"]}
    """

    assert only_problem(job(tasks)).message == "b may not have ended when this task starts"


def test_behind_a_chain_of_done_every_task_has_ended():
    tasks = """
    - {name: a, type: noop}
    - {name: b, type: noop, depends_on: [a]}
    - {name: c, type: shell, command: x, depends_on: [{task: b, status: done}], args: ["${results.a.n}"]}
    """

    assert problems_of(job(tasks)) == []


def test_a_placeholder_in_a_command_is_a_problem_and_the_shells_own_is_not():
    found = only_problem(job("- {name: a, type: shell, command: 'echo ${HOME} ${params.x}'}"))

    assert (found.path, found.value) == ("tasks[0].command", "${params.x}")
    assert found.message == "placeholder in the fixed text of command"


def test_a_placeholder_may_stand_where_a_number_is_asked_for():
    head = "parameters: [{name: code, type: integer}]"

    assert problems_of(job('- {name: a, type: shell, command: x, success_codes: ["${params.code}"]}', head)) == []
    assert problems_of(job('- {name: a, type: shell, command: x, success_codes: ["0${params.code}"]}', head)) != []


def condition(when: str) -> str:
    return job(
        f"""
        - {{name: a, type: noop}}
        - {{name: b, type: noop, depends_on: [a]}}
        - name: c
          type: noop
          depends_on: [{{task: b, when: {when!r}}}]
        """,
        "parameters: [{name: region, type: string}]",
    )


@pytest.mark.parametrize(
    "when",
    ["results.b.n > 0", "params.region == 1 || event.x", "has(results.b.n)", "results.b", "event.results.a == 1"],
)
def test_a_condition_may_read_parameters_the_event_and_its_own_upstream(when: str):
    assert problems_of(condition(when)) == []


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("results.a.n > 0", "results.a is not the result of its own upstream"),
        ("results.zz.n > 0", "unknown task in results.zz"),
        ("params.regoin == 1", "unknown parameter params.regoin"),
        ("results.b.n +", "unexpected end"),
        ("1 + 1", "is of type int, not a boolean"),
        ("run.id == 1", "run.id is not known here"),
        ("b.n > 0", "b.n is not known here"),
        ("true " + " " * 5000, "at most 4096 are allowed"),
    ],
)
def test_any_other_condition_is_one_problem(when: str, message: str):
    found = only_problem(condition(when))

    assert found.path == "tasks[2].depends_on[0].when"
    assert message in found.message


def test_an_unknown_upstream_with_a_condition_is_one_problem():
    text = job("- {name: a, type: noop, depends_on: [{task: zz, when: 'results.zz.n > 0'}]}")

    assert only_problem(text).path == "tasks[0].depends_on[0].task"
