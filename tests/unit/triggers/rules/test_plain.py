"""Conditions that are answered without CEL are answered as CEL answers them, or left to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.program import compile_condition
from triggers.envelope import Envelope
from triggers.rules.decide import Activation
from triggers.rules.plain import plain_condition

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, 1000.0]),
    st.sampled_from(["", "a", "b", "EUR", "1", "北京"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(
        st.sampled_from(["b", "c"]), st.one_of(st.integers(-2, 2), st.sampled_from(["a", "b"])), max_size=2
    ),
)
PAYLOADS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)
FIELDS = st.sampled_from(
    [
        "payload.a",
        "payload.b",
        "payload.a.b",
        "payload.c.c",
        "metadata.a",
        "eventType",
        "source",
        "destination",
        "priority",
    ]
)
CONSTANTS = st.one_of(
    st.integers(-5, 5).map(str),
    st.integers(0, 10**15 - 1).map(str),
    st.sampled_from(["1.0", "2.5", "-0.0", "1000", "0"]),
    st.sampled_from(["'a'", '"b"', "'EUR'", "''", "'北京'", "'1'"]),
)
TERMS = st.tuples(FIELDS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), CONSTANTS).map(" ".join)
CONDITIONS = st.lists(TERMS, min_size=1, max_size=3).map(" && ".join)


def envelope(payload: dict[str, Any], metadata: dict[str, Any] | None = None) -> Envelope:
    return Envelope("m-1", "order.created", NOW, "shop", payload, "a", "HIGH", metadata or {})


@given(condition=CONDITIONS, payload=PAYLOADS, metadata=PAYLOADS)
@example(condition="payload.a > 1000", payload={"a": 1000.5}, metadata={})
@example(condition="payload.a == 1", payload={"a": True}, metadata={})
@example(condition="payload.a == 1", payload={"a": 1.0}, metadata={})
@example(condition="payload.a < 5 && payload.missing == 'a'", payload={"a": 7}, metadata={})
def test_what_is_certain_is_what_cel_says(condition: str, payload: dict[str, Any], metadata: dict[str, Any]):
    plain = plain_condition(condition)
    try:
        asked = compile_condition(condition, rule_environment())
    except Exception:
        return  # a text compared with a number: no rule has it
    event = envelope(payload, metadata)
    if plain is not None and (answer := plain(event)) is not None:
        facts = Activation(event, "kafka:orders", {}, "", NOW, shallow=True).facts
        assert asked.evaluate_on(facts) is answer


@pytest.mark.parametrize(
    "condition",
    [
        "payload.amount > 1000 || true",
        "!(payload.amount > 1000)",
        "(payload.amount > 1000)",
        "payload['amount'] > 1000",
        "payload.?amount > 1000",
        "payload.amount > payload.limit",
        "payload.amount > 1e3",
        "payload.amount > 1000u",
        "payload.amount > 0x10",
        "payload.amount > 9007199254740993",
        "payload.status == 'a\\'b'",
        "payload.status == r'a'",
        "payload.status == '''a'''",
        "payload.status.startsWith('a')",
        "payload.items.all(i, i > 0)",
        "headers.kind == 'a'",
        "event.payload.amount > 1",
        "payload == 'a'",
        "payload.amount > 1000 // a comment",
        "payload.status == 'a' && ",
        "'a' == payload.status",
        "size(payload.items) == 3",
        "eventType.size == 'a'",
    ],
)
def test_whatever_is_more_is_left_to_cel(condition: str):
    assert plain_condition(condition) is None


@pytest.mark.parametrize(
    "payload",
    [{}, {"amount": None}, {"amount": "1500"}, {"amount": True}, {"amount": [1]}, {"amount": 2**53}, {"amount": 1e300}],
)
def test_a_field_that_is_no_plain_number_is_left_to_cel(payload: dict[str, Any]):
    plain = plain_condition("payload.amount > 1000")

    assert plain is not None
    assert plain(envelope(payload)) is None


def test_one_false_part_is_enough_whatever_the_others_are():
    plain = plain_condition("payload.missing > 1 && payload.amount > 1000")

    assert plain is not None
    assert plain(envelope({"amount": 5})) is False
    assert plain(envelope({"amount": 5000})) is None
