from __future__ import annotations

import contextlib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.expressions.placeholders import (
    PlaceholderContext,
    is_whole,
    ours_in_fixed_text,
    parse_template,
    references,
    render,
)
from orchestrator.expressions.problems import InvalidPlaceholder, MissingReference

CONTEXT = PlaceholderContext(
    params={"region": "cn", "n": 5, "flag": True, "shops": [1, {"id": 2}], "empty": "", "null": None, "evil": "${env}"},
    results={"count": {"n": 42, "rows": [{"id": "a"}]}},
    event={"payload": {"order-id": "o1"}},
    run_id=7,
    logical_date="2026-03-31T00:00:00+00:00",
    execution_date=date(2026, 3, 31),
    env="test",
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no placeholder", "no placeholder"),
        ("${params.region}", "cn"),
        ("${params.n}", 5),
        ("${params.flag}", True),
        ("${params.null}", None),
        ("${params.shops}", [1, {"id": 2}]),
        ("${params.shops.1.id}", 2),
        ("n=${params.n} ${params.flag} ${params.null}", "n=5 true null"),
        ("shops=${params.shops}", 'shops=[1,{"id":2}]'),
        ("${params.region}${params.n}", "cn5"),
        ("${results.count.n}", 42),
        ("${results.count.rows.0.id}", "a"),
        ("${results.count}", {"n": 42, "rows": [{"id": "a"}]}),
        ("${event.payload.order-id}", "o1"),
        ("${run.id}", 7),
        ("run ${run.id}", "run 7"),
        ("${run.logical_date}", "2026-03-31T00:00:00+00:00"),
        ("${env}", "test"),
        ("${execution_date}", "2026-03-31"),
        ("${biz_date}", "2026-03-30"),
        ("${biz_date-7d}", "2026-03-23"),
        ("${biz_date|%Y%m%d}", "20260330"),
        ("${execution_date+1M|%Y%m%d}", "20260430"),
        ("${execution_date-1M}", "2026-02-28"),
        ("${execution_date-1y+1d}", "2025-04-01"),
        ("${execution_date+2w}", "2026-04-14"),
        ("${execution_date|%y/%m/%d %j %G-W%V-%u 100%%}", "26/03/31 090 2026-W14-2 100%"),
        ("${params.missing:-fallback}", "fallback"),
        ("${params.missing:-}", ""),
        ("${results.lost.n:-0}", "0"),
        ("${params.empty:-fallback}", ""),
        ("${params.null:-fallback}", None),
        ("$${params.region}", "${params.region}"),
        ("$$${env}", "$${env}"),
        ("cost: $5 and $ {x}", "cost: $5 and $ {x}"),
        ("${params.evil}", "${env}"),
        ("<${params.evil}>", "<${env}>"),
    ],
)
def test_a_text_is_rendered(text: str, value: Any):
    rendered = render(text, CONTEXT)

    assert rendered == value
    assert type(rendered) is type(value)


def test_nested_values_are_rendered_and_keys_are_not():
    value = {"${env}": ["${params.n}", {"deep": "${env}!"}], "n": 1}

    assert render(value, CONTEXT) == {"${env}": [5, {"deep": "test!"}], "n": 1}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("${params.missing}", "params.missing"),
        ("${results.lost.n}", "results.lost.n"),
        ("${results.count.rows.5}", "results.count.rows.5"),
        ("${params.region.x}", "params.region.x"),
        ("${params.shops." + "9" * 5000 + "}", "params.shops." + "9" * 5000),
        ("${execution_date+9999y}", "execution_date"),
        ("${execution_date-999999d}", "execution_date"),
    ],
)
def test_a_missing_value_is_an_error_that_names_it(text: str, reference: str):
    with pytest.raises(MissingReference) as caught:
        render(text, CONTEXT)

    assert caught.value.reference == reference


def test_a_value_too_deep_to_be_text_is_an_error_that_names_it():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(MissingReference, match="nested too deeply"):
        render("x ${results.a}", PlaceholderContext(results={"a": deep}))


def test_a_run_without_an_event_has_no_event_values():
    with pytest.raises(MissingReference):
        render("${event.payload.x}", PlaceholderContext())


@pytest.mark.parametrize(
    "text",
    [
        "${}",
        "${ params.x }",
        "${HOME}",
        "${params}",
        "${params.}",
        "${results..x}",
        "${run.name}",
        "${env.x}",
        "${biz_date-7}",
        "${biz_date-7h}",
        "${biz_date|%H}",
        "${biz_date|%}",
        "${biz_date|}",
        "${biz_date|%1000000000d}",
        "${params.x",
        "a ${biz_date+" + "9" * 20 + "d}",
    ],
)
def test_what_is_no_placeholder_is_refused(text: str):
    with pytest.raises(InvalidPlaceholder):
        parse_template(text)


def test_the_references_of_a_value_are_listed_once_each():
    value = {"a": ["${results.count.n}", "${params.x} ${params.x}"], "b": "$${params.not}", "c": "${biz_date-1d}"}

    assert references(value) == ["biz_date", "params.x", "results.count.n"]


@pytest.mark.parametrize(("text", "whole"), [("${env}", True), ("${env} ", False), ("${env}${env}", False), ("$${env}", False), ("${x}", False)])  # fmt: skip
def test_a_whole_placeholder_is_told_from_a_longer_text(text: str, whole: bool):
    assert is_whole(text) is whole


@pytest.mark.parametrize(
    "text",
    [
        "echo ${params.x}",
        "${biz_date:-x}",
        "${biz_date-7d}",
        "a${results.count.n}",
        "${run.id}",
        "${env}",
        "${event.x}",
    ],
)
def test_our_names_in_a_fixed_text_are_found(text: str):
    assert ours_in_fixed_text(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "${HOME}",
        "${TARGET:-x}",
        "$params.x",
        "${environment}",
        "${run}",
        "${params}",
        "$${env}",
        "${env_name}",
        "${biz_dates}",
    ],
)
def test_the_shells_own_variables_stay_its_own(text: str):
    assert ours_in_fixed_text(text) is None


@given(st.text(max_size=60))
def test_an_escaped_text_comes_back_as_it_was(text: str):
    assert render(text.replace("${", "$${"), CONTEXT) == text or "$${" in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_of_a_parameter_is_inserted_as_it_is(value: Any):
    context = PlaceholderContext(params={"x": value})

    assert render("${params.x}", context) == value


@given(st.text(alphabet="${}params.x:-|%d+7Mbiz_te", max_size=40))
def test_no_text_breaks_the_parser(text: str):
    with contextlib.suppress(InvalidPlaceholder, MissingReference):
        render(text, CONTEXT)
