"""The form of a job's parameters: what each type shows, and what its texts are read as."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from orchestrator.console.forms import ParameterField, fields_of, problems_of, read_form, text_of
from orchestrator.dag.parameters import ParameterContext, resolve_parameters
from orchestrator.dag.spec import ParameterSpec
from orchestrator.errors import Detail

CONTEXT = ParameterContext(execution_date=date(2026, 12, 1))


def parameter(kind: str, **fields: Any) -> ParameterSpec:
    return ParameterSpec("p", kind, has_default="default" in fields, **fields)


def field_of(spec: ParameterSpec, **shown: Any) -> ParameterField:
    without = resolve_parameters((spec,), trigger={}, tenant={}, environment={}, context=CONTEXT)
    return fields_of((spec,), without={"p": without}, secrets=("mail", "warehouse"), **shown)[0]


@pytest.mark.parametrize(
    ("spec", "drawn"),
    [
        (parameter("string", default="eu"), ("text", "eu", False, "")),
        (parameter("string", default="a\nb"), ("area", "a\nb", False, "")),
        (parameter("string", required=True), ("text", "", True, "")),
        (parameter("string"), ("text", "", False, "empty: not given")),
        (parameter("integer", default=5), ("text", "5", False, "empty: 5")),
        (parameter("number", default=None), ("text", "", False, "empty: null")),
        (parameter("date", default="2026-01-31"), ("date", "2026-01-31", False, "empty: 2026-01-31")),
        (parameter("date", default="${biz_date}"), ("date", "", False, "empty: ${biz_date}, now 2026-11-30")),
        (parameter("datetime", default="2026-01-31T08:00:00Z"),
         ("text", "2026-01-31T08:00:00Z", False, "empty: 2026-01-31T08:00:00Z")),
        (parameter("boolean", default=False), ("select", "false", False, "empty: false")),
        (parameter("enum", values=("eu", 1, True), default=1), ("select", "1", False, "empty: 1")),
        (parameter("secret", default={"secret": "mail"}), ("select", "mail", False, "empty: mail")),
        (parameter("list", default=[1, "a"]), ("area", '[1, "a"]', False, 'empty: [1, "a"]')),
        (parameter("object", required=True), ("area", "", True, "")),
    ],
)  # fmt: skip
def test_each_type_is_drawn_with_its_default_or_says_what_empty_means(
    spec: ParameterSpec, drawn: tuple[str, str, bool, str]
) -> None:
    field = field_of(spec)

    assert (field.input, field.value, field.is_required, field.when_empty) == drawn


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (parameter("boolean"), ["–", "true", "false"]),
        (parameter("enum", values=("eu", 1, True), required=True), ["choose…", "eu", "1", "true"]),
        (parameter("secret", required=True), ["choose…", "mail", "warehouse"]),
        (parameter("secret", default={"secret": "gone"}),
         ["–", "mail", "warehouse", "gone (there is none of this name)"]),
    ],
)  # fmt: skip
def test_what_can_be_chosen_is_offered(spec: ParameterSpec, words: list[str]) -> None:
    assert [choice.word for choice in field_of(spec).choices] == words


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        (parameter("string"), " a b ", " a b "),
        (parameter("string"), "a\r\nb", "a\nb"),
        (parameter("integer"), " 5 ", 5),
        (parameter("number"), "2.5", 2.5),
        (parameter("boolean"), "true", True),
        (parameter("date"), "2026-12-01", "2026-12-01"),
        (parameter("enum", values=("eu", 1, True)), "1", 1),
        (parameter("enum", values=("eu", 1, True)), "true", True),
        (parameter("secret"), "mail", {"secret": "mail"}),
        (parameter("list"), "[1, 2]", [1, 2]),
        (parameter("object"), '{"a": {"b": null}}', {"a": {"b": None}}),
        # What cannot be read stays as it is: the resolution refuses it in its own words.
        (parameter("integer"), "five", "five"),
    ],
)
def test_texts_are_read_by_the_type_of_their_parameter(spec: ParameterSpec, text: str, value: Any) -> None:
    read = read_form((spec,), {"p": text})

    assert (read.values, read.problems) == ({"p": value}, {})
    assert type(read.values["p"]) is type(value)


@pytest.mark.parametrize("kind", ["string", "integer", "date", "secret", "list"])
def test_an_empty_field_gives_nothing(kind: str) -> None:
    assert read_form((parameter(kind),), {"p": "" if kind == "string" else "  "}).values == {}


def test_a_text_that_somebody_has_emptied_is_sent_empty() -> None:
    assert read_form((parameter("string", default="eu"),), {"p": ""}).values == {"p": ""}
    assert read_form((parameter("string", default="${env}"),), {"p": ""}).values == {}


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', "[" * 100_000])
def test_what_is_no_json_is_refused_at_its_field(text: str) -> None:
    read = read_form((parameter("object"),), {"p": text})

    assert read.values == {}
    assert read.problems["p"].startswith("not JSON: ")
    assert read.problems["p"].endswith("expected a mapping")


def test_what_a_person_has_typed_stands_in_the_field_again_whatever_is_wrong_with_it() -> None:
    field = field_of(parameter("date", default="2026-01-31"), texts={"p": "31.1."}, problems={"p": "expected a date"})

    assert (field.input, field.value, field.problem) == ("text", "31.1.", "expected a date")


def test_problems_go_to_their_parameters_and_the_others_keep_their_place() -> None:
    by_name, others = problems_of([Detail("parameters.p", 5, "a text"), Detail("parameters", "9 bytes", "fewer")])

    assert by_name == {"p": "5: expected a text"}
    assert others == ['parameters: "9 bytes": expected fewer']


def test_long_structures_are_shown_on_several_lines() -> None:
    assert text_of(parameter("list"), list(range(30))).count("\n") == 31
