from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.expressions.environment import Environment, dependency_environment
from orchestrator.expressions.problems import InvalidExpression
from orchestrator.expressions.program import (
    DATA_DEPTH,
    NotEvaluated,
    compile_condition,
    dependency_condition,
    fields_of,
)


def value_of(source: str, result: Any = None, **values: Any) -> Any:
    return dependency_condition(source, "count").evaluate({"results.count": result, **values})


def refusal_of(source: str) -> InvalidExpression:
    with pytest.raises(InvalidExpression) as caught:
        compile_condition(source, Environment(maps=("params", "event"), values=("results.count",)))
    return caught.value


def test_a_condition_reads_the_result_of_its_upstream():
    assert value_of("results.count.n > 0", {"n": 5}) is True
    assert value_of("results.count.n > 0", {"n": 0}) is False


def test_the_same_source_serves_every_upstream():
    source = "results.load.n == 1"

    value = dependency_condition(source, "load").evaluate({"results.load": {"n": 1}})

    assert value is True
    assert dependency_condition(source, "load").program is dependency_condition(source, "other").program


def test_a_condition_reads_parameters_and_the_event():
    assert value_of("params.region == 'cn' && event.payload.amount > 10", params={"region": "cn"},
                    event={"payload": {"amount": 11}}) is True  # fmt: skip


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("params.missing == 1", {}),
        ("results.count.n > 0", {"result": None}),
        ("results.count.n > 0", {"result": {"n": "text"}}),
        ("params.x", {"params": {"x": "not a boolean"}}),
        ("num(params.x) > 1", {"params": {"x": "abc"}}),
        ("num(params.x) > 1", {"params": {"x": None}}),
        ("params.x == 1", {"params": {"x": 2**70}}),
        ("params.x == 1", {"params": {"x": object()}}),
        ("params.a.b.c", {"params": {"a": 1}}),
        ("1 / params.zero == 1", {"params": {"zero": 0}}),
    ],
)
def test_what_has_no_value_is_not_evaluated_and_never_false(source: str, values: dict[str, Any]):
    value = value_of(source, values.pop("result", None), **values)

    assert isinstance(value, NotEvaluated)
    assert value.reason


def test_a_condition_that_runs_away_is_not_evaluated():
    many = {str(number): 1 for number in range(1000)}

    value = value_of("params.all(a, params.all(b, params.all(c, true)))", params=many)

    assert value == NotEvaluated("Iteration budget exceeded")


def test_data_too_deep_for_the_library_is_refused_before_it_sees_it():
    deep: Any = 1
    for _ in range(DATA_DEPTH + 1):
        deep = [deep]

    assert isinstance(value_of("params.x == 1", params={"x": deep}), NotEvaluated)


def test_cyclic_data_is_refused():
    cyclic: list[Any] = []
    cyclic.append(cyclic)

    assert isinstance(value_of("params.x == 1", params={"x": cyclic}), NotEvaluated)


@pytest.mark.parametrize("source", ["1 + 1", "'text'", "[true]", "results.count.n + 1 > 0 ? 1 : 2", "null"])
def test_an_expression_that_cannot_be_boolean_is_refused(source: str):
    assert "not a boolean" in str(refusal_of(source))


def test_a_dynamic_expression_may_turn_out_boolean():
    assert value_of("params.flag", params={"flag": True}) is True


def test_an_unknown_name_is_refused_with_its_position():
    (problem,) = refusal_of("params.x == 1 &&\n  results.other.n > 0").problems

    assert (problem.undeclared, problem.line) == ("results.other.n", 2)
    assert "results.other.n is not known here" in problem.message


def test_all_unknown_names_are_reported():
    assert [problem.undeclared for problem in refusal_of("foo && bar").problems] == ["foo", "bar"]


@pytest.mark.parametrize(
    "source", ["", "  ", "params.x ==", "(" * 4000, "x" * 5000, "1" + "+1" * 2000, "'\ud800' == ''"]
)
def test_a_bad_source_is_refused_in_plain_words(source: str):
    message = str(refusal_of(source))

    assert message
    assert "INVALID_ARGUMENT" not in message
    assert "incompatible function" not in message


def test_one_condition_serves_many_threads():
    condition = dependency_condition("results.count.n > params.least", "count")

    with ThreadPoolExecutor(8) as pool:
        values = list(
            pool.map(lambda n: condition.evaluate({"results.count": {"n": n}, "params": {"least": 50}}), range(500))
        )

    assert values == [n > 50 for n in range(500)]


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("params.a > 1 && params.b", ["a", "b"]),
        ("has(params.a)", ["a"]),
        ("params.?a.orValue(1) > 1", ["a"]),
        ("params['a'] == 1", ["a"]),
        ("params[?'a'].hasValue()", ["a"]),
        ("event.params.x == 1", []),
        ("results.count.params.x == 1", []),
        ("event[0].params.x", []),
        ("'params.x' == params.y // params.z", ["y"]),
        ('"""params.x\n""" == params.y', ["y"]),
        ("params . a // why\n == 1", ["a"]),
        ("x in .params.a", ["a"]),
        ("params[params.a]", ["a"]),
    ],
)
def test_the_fields_that_an_expression_names_are_found(source: str, fields: list[str]):
    assert fields_of(source, "params") == fields


def test_the_environment_of_dependencies_is_made_once():
    assert dependency_environment() is dependency_environment()
