from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from orchestrator.dag.parameters import ParameterContext, Resolved, fits, read_texts, resolve_parameters
from orchestrator.dag.spec import ParameterSpec
from orchestrator.errors import Detail

CONTEXT = ParameterContext(execution_date=date(2026, 12, 2), env="test", logical_date="2026-12-02T00:00:00Z")


def resolve(*specs: ParameterSpec, **origins: dict[str, Any]) -> Resolved:
    empty: dict[str, Any] = {"trigger": {}, "tenant": {}, "environment": {}}
    return resolve_parameters(specs, **(empty | origins), context=CONTEXT)


def default(value: Any, kind: str = "string", **more: Any) -> ParameterSpec:
    return ParameterSpec("region", kind, default=value, has_default=True, **more)


def test_a_value_comes_from_the_trigger_then_the_job_then_the_tenant_then_the_environment():
    spec, bare = default("job"), ParameterSpec("region", "string")
    tenant, environment = {"region": "tenant"}, {"UPBEAT_PARAM_REGION": "environment"}

    trigger = resolve(spec, trigger={"region": "trigger"}, tenant=tenant, environment=environment)

    assert trigger.values == {"region": "trigger"}
    assert resolve(spec, tenant=tenant, environment=environment).values == {"region": "job"}
    assert resolve(bare, tenant=tenant, environment=environment).values == {"region": "tenant"}
    assert resolve(bare, environment=environment).values == {"region": "environment"}
    assert resolve(bare).values == {}


def test_only_variables_with_the_prefix_count():
    assert resolve(ParameterSpec("region", "string"), environment={"region": "x", "REGION": "y"}).values == {}


def test_defaults_may_name_dates_and_the_environment():
    values = resolve(
        default("${biz_date|%Y%m%d}"),
        ParameterSpec("where", "object", default={"env": "${env}", "at": ["${run.logical_date}"]}, has_default=True),
    ).values

    assert values == {"region": "20261201", "where": {"env": "test", "at": ["2026-12-02T00:00:00Z"]}}


def test_a_value_from_outside_is_no_template():
    assert resolve(default("x"), trigger={"region": "${env}"}).values == {"region": "${env}"}


def test_all_problems_come_at_once():
    found = resolve(
        ParameterSpec("n", "integer"),
        ParameterSpec("day", "date", required=True),
        ParameterSpec("region", "enum", values=("cn", "us")),
        trigger={"n": "five", "region": "eu", "regoin": 1},
    )

    assert found.values == {}
    assert found.problems == (
        Detail("parameters.regoin", 1, "a parameter of the job: region?"),
        Detail("parameters.n", "five", "an integer of at most 64 bits"),
        Detail("parameters.day", None, "a value: the parameter is required, a date such as 2026-12-01"),
        Detail("parameters.region", "eu", "one of cn, us"),
    )


def test_a_problem_says_where_a_value_came_from():
    found = resolve(ParameterSpec("n", "integer"), tenant={"n": "x"})

    assert found.problems == (Detail("parameters.n", "x", "an integer of at most 64 bits from the tenant"),)


@pytest.mark.parametrize("value", ["hunter2", {"secret": "a", "more": 1}, {"secret": 5}, {"secret": ""}, ["x"]])
def test_a_secret_is_a_reference_and_is_never_shown(value: Any):
    found = resolve(ParameterSpec("key", "secret"), trigger={"key": value})

    assert found.problems == (Detail("parameters.key", "***", "{secret: <name of a stored secret>}"),)


def test_a_secret_reference_is_kept_as_it_is():
    assert resolve(ParameterSpec("key", "secret"), trigger={"key": {"secret": "api"}}).values == {
        "key": {"secret": "api"}
    }


def test_a_misspelt_parameter_does_not_show_its_text():
    found = resolve(ParameterSpec("api_key", "secret"), trigger={"api_kye": "hunter2"})

    assert "hunter2" not in str(found.problems)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "x"], [1, None, True, "a\0b"]),
        ("integer", [0, -5, 2**63 - 1], ["5", 5.0, True, 2**63]),
        ("number", [0, 1.5], ["1", True, float("nan"), float("inf")]),
        ("boolean", [True, False], [1, "true"]),
        ("date", ["2026-12-01"], ["2026-13-01", "20261201", "2026-12-01T00:00", 20261201]),
        ("datetime", ["2026-12-01T08:00:00+08:00", "2026-12-01T08:00:00Z"], ["2026-12-01", "x", 5]),
        ("path", ["/srv/x", "a"], ["", "  ", "a\0b", 1]),
        ("list", [[], [1, "a"]], [{}, "[]"]),
        ("object", [{}, {"a": [1]}], [[], {1: 2}]),
    ],
)
def test_values_fit_their_type_or_do_not(kind: str, good: list[Any], bad: list[Any]):
    spec = ParameterSpec("x", kind)

    assert [value for value in good if not fits(spec, value)] == []
    assert [value for value in bad if fits(spec, value)] == []


def test_enum_values_are_compared_with_their_type():
    spec = ParameterSpec("x", "enum", values=(1, "1", True))

    assert [fits(spec, value) for value in (1, "1", True, 1.0, False)] == [True, True, True, False, False]


def test_null_fits_only_where_the_default_is_null():
    assert resolve(default(None), trigger={"region": None}).values == {"region": None}
    assert resolve(default("x"), trigger={"region": None}).problems


def test_texts_are_read_by_the_type_of_the_parameter():
    specs = [
        ParameterSpec(kind, kind, values=(5,)) for kind in ("integer", "number", "boolean", "list", "object", "enum")
    ]
    texts = {"integer": "5", "number": "1.5", "boolean": "true", "list": "[1]", "object": '{"a": 1}', "enum": "5"}

    values = read_texts(specs, texts | {"unknown": "x"})

    assert values == {
        "integer": 5, "number": 1.5, "boolean": True, "list": [1], "object": {"a": 1}, "enum": 5, "unknown": "x"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x", "", "9" * 5000, "[" * 100_000, "nan"])
def test_a_text_that_cannot_be_read_is_refused_later(text: str):
    for kind in ("integer", "number", "boolean", "list"):
        spec = ParameterSpec("x", kind)
        assert resolve(spec, trigger=read_texts([spec], {"x": text})).problems


def test_values_of_a_run_have_a_limit():
    found = resolve(ParameterSpec("x", "string"), trigger={"x": "a" * 300_000})

    assert found.problems[0].expected == "at most 262144 bytes as JSON"


def test_a_value_too_deep_for_what_reads_it_later_is_refused():
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]

    assert resolve(ParameterSpec("x", "list"), trigger={"x": deep}).problems


def test_a_pipeline_may_write_a_declared_name_with_capitals():
    spec = ParameterSpec("deploy_time", "datetime")

    assert resolve(spec, trigger={"deployTime": "2025-09-06T10:30:00Z"}).values == {
        "deploy_time": "2025-09-06T10:30:00Z"
    }
    assert read_texts([ParameterSpec("max_rows", "integer")], {"maxRows": "5"}) == {"maxRows": 5}
    assert resolve(spec, trigger={"deployHour": "10"}).problems[0].path == "parameters.deployHour"


def test_one_parameter_under_two_spellings_is_a_problem():
    spec = ParameterSpec("deploy_time", "datetime")
    given = {"deployTime": "2025-09-06T10:30:00Z", "deploy_time": "2025-09-06T10:30:00Z"}

    (problem,) = resolve(spec, trigger=given).problems

    assert problem == Detail("parameters.deployTime", "***", "one value: deploy_time is given too")
