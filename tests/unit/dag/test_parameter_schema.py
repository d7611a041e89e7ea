from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.dag.parameter_schema import parameter_schema
from orchestrator.dag.parameters import PATTERNS, TYPES, ParameterContext, fits, resolve_parameters
from orchestrator.dag.spec import ParameterSpec

CONTEXT = ParameterContext(execution_date=date(2026, 12, 2), env="test", logical_date="2026-12-02T00:00:00Z")


def schema_of(*specs: ParameterSpec, tenant: dict[str, Any] | None = None) -> dict[str, Any]:
    return parameter_schema(specs, tenant=tenant or {}, environment={}, context=CONTEXT, title="nightly-etl")


def accepted_by_schema(schema: dict[str, Any], values: dict[str, Any]) -> bool:
    return jsonschema_rs.Draft202012Validator(schema).is_valid(values)


def accepted_by_trigger(specs: tuple[ParameterSpec, ...], values: dict[str, Any]) -> bool:
    return not resolve_parameters(specs, trigger=values, tenant={}, environment={}, context=CONTEXT).problems


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=5),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
#: What is near to the types: the border between yes and no is where the two could differ.
NEAR = st.one_of(
    st.dates().map(str),
    st.datetimes().map(datetime.isoformat),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    st.from_regex(PATTERNS["datetime"]),
    st.from_regex(r"^[0-9]{4}-[01][0-9]-[0-3][0-9]$"),
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "a\n",
            "\u00a0",
            "\ufeff",
            "\x1c",
            "a\x00",
            "24:00",
            "2026-12-01T08:00:60Z",
            "2026-02-29",
            "2024-02-29",
            "0000-01-01",
            "1900-02-29",
            "2000-02-29",
        ]
    ),
    st.text(max_size=8).map(lambda text: {"secret": text}),
    st.sampled_from([{"secret": "api-key"}, {"secret": "a", "b": 1}, {"secret": ""}, {"secret": "a\n"}, {}]),
    st.sampled_from([1, 1.0, True, "1", 0, False, 2**63 - 1, -(2**63), 1.5]),
)
ENUMS = st.lists(
    st.sampled_from(["cn", "us", "1", 1, 2.5, True, False, 0]),
    min_size=1,
    max_size=4,
    unique_by=lambda v: (type(v).__name__, v),
)


@st.composite
def specs(draw: st.DrawFn) -> ParameterSpec:
    kind = draw(st.sampled_from(TYPES))
    values = tuple(draw(ENUMS)) if kind == "enum" else ()
    spec = ParameterSpec("x", kind, values=values, required=draw(st.booleans()))
    if draw(st.booleans()):
        default = draw(st.none() | JSON | NEAR)
        candidate = ParameterSpec("x", kind, default=default, has_default=True, values=values, required=spec.required)
        if fits(candidate, default) and "${" not in json.dumps(default):
            return candidate
    return spec


@settings(max_examples=400)
@given(specs(), JSON | NEAR | st.just(...))
def test_the_schema_accepts_exactly_what_a_trigger_accepts(spec: ParameterSpec, value: Any):
    # What a call sends has been through JSON.
    values = {} if value is ... else orjson.loads(orjson.dumps({"x": value}))

    assert accepted_by_schema(schema_of(spec), values) == accepted_by_trigger((spec,), values)


@given(specs(), st.data())
def test_a_default_fits_the_schema_that_names_it(spec: ParameterSpec, data: st.DataObject):
    shown = schema_of(spec)["properties"]["x"]

    if "default" in shown:
        assert accepted_by_schema(schema_of(spec), {"x": shown["default"]})


@given(st.from_regex(PATTERNS["datetime"], fullmatch=True) | st.from_regex(PATTERNS["date"], fullmatch=True))
def test_every_date_that_fits_is_one_of_the_calendar(text: str):
    # A pattern's end also matches before a last newline in Python; a value never has one.
    datetime.fromisoformat(text.rstrip("\n").upper())


def test_an_unknown_parameter_is_refused_by_both():
    spec = ParameterSpec("region", "string")

    assert not accepted_by_schema(schema_of(spec), {"regoin": "x"})
    assert not accepted_by_trigger((spec,), {"regoin": "x"})


def test_a_form_can_be_drawn_from_it():
    schema = schema_of(
        ParameterSpec("biz_date", "date", default="${biz_date}", has_default=True),
        ParameterSpec("region", "enum", default="cn", has_default=True, values=("cn", "us"), description="Where."),
        ParameterSpec("api_key", "secret", required=True),
        ParameterSpec("shops", "list", default=[1, 2], has_default=True),
    )

    jsonschema_rs.meta.validate(schema)
    assert schema["properties"]["biz_date"] == {
        "title": "Biz date",
        "x-upbeat-type": "date",
        "type": "string",
        "format": "date",
        "pattern": PATTERNS["date"],
        "x-upbeat-default": "${biz_date}",
        "examples": ["2026-12-01"],
    }
    assert schema["properties"]["region"] == {
        "title": "Region",
        "description": "Where.",
        "x-upbeat-type": "enum",
        "enum": ["cn", "us"],
        "default": "cn",
    }
    assert schema["properties"]["api_key"]["description"].startswith("The name of a stored secret")
    assert schema["required"] == ["api_key"]


def test_what_the_tenant_gives_need_not_be_sent():
    spec = ParameterSpec("region", "string", required=True)

    assert schema_of(spec)["required"] == ["region"]
    assert "required" not in schema_of(spec, tenant={"region": "cn"})
    assert schema_of(spec, tenant={"region": 5})["required"] == ["region"]


@pytest.mark.parametrize(("value", "declared"), [(5.0, 5), (5, 5), (-0.0, 0)])
def test_a_whole_number_is_an_integer_however_json_wrote_it(value: float, declared: int):
    found = resolve_parameters(
        [ParameterSpec("n", "integer")], trigger={"n": value}, tenant={}, environment={}, context=CONTEXT
    )

    assert (found.values, type(found.values["n"])) == ({"n": declared}, int)
