from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rules import NOON, TENANT, activation, rule
from triggers.rules.decide import Activation, EvaluationError, NotFired, evaluate
from triggers.rules.explain import explain
from triggers.rules.match import RuleIndex
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import Fire, Hold, State, StateKey, apply_stages, state_keys


def steps(one: CompiledRule, event: Activation, **more: Any) -> list[tuple[str, bool | None]]:
    return [(step.name, step.passed) for step in explain(one, event, **more).steps]


def test_every_step_of_a_rule_that_fires_is_told():
    one = rule(
        condition="payload.amount > 1000",
        parameters={"id": "${payload.orderId}"},
        dedupe={"key": "payload.orderId", "window": "1m"},
        delay=None,
    )

    told = explain(one, activation())

    assert told.outcome == "fired"
    assert told.parameters == {"id": "o-1"}
    assert steps(one, activation()) == [("match", True), ("condition", True), ("parameters", True), ("dedupe", True)]


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"eventType": "order.paid"}, "eventType: 'order.created' is none of order.paid"),
        ({"source": "shop"}, "source: 'order-service' is none of shop"),
        ({"channel": "api"}, "channel: 'kafka:business-events' is none of api"),
        ({"headers": {"x-tenant": "a"}}, "headers: x-tenant is 'b', not 'a'"),
    ],
)
def test_an_event_that_the_rule_does_not_ask_for_is_told_why(match: dict[str, Any], words: str):
    fields = {"eventType": None} if "eventType" in match else {}

    told = explain(rule(match=match, **fields), activation(headers={"x-tenant": "b"}))

    assert (told.outcome, told.reason) == ("not_matched", words)


def test_a_condition_that_is_false_and_one_without_a_value_are_told_apart():
    false, error = rule(condition="payload.amount > 9999"), rule(condition="payload.missing > 1")

    assert explain(false, activation()).outcome == "not_fired"
    told = explain(error, activation())
    assert told.outcome == "error"
    assert told.steps[-1].passed is None
    assert told.steps[-1].value == {"position": "condition"}


def test_an_error_of_the_parameters_is_told_after_the_condition_that_held():
    told = explain(rule(condition="true", parameters={"a": ["${payload.none}"]}), activation())

    assert [(step.name, step.passed) for step in told.steps] == [
        ("match", True),
        ("condition", True),
        ("parameters", None),
    ]
    assert told.steps[-1].value == {"position": "parameters.a[0]"}


def test_what_the_stages_would_do_now_is_told_from_their_states():
    one = rule(dedupe={"key": "payload.orderId", "window": "1m"}, delay="5m")
    fires = evaluate(one, activation())
    assert not isinstance(fires, (NotFired, EvaluationError))
    key = state_keys(one, fires)[0]

    first = explain(one, activation())
    again = explain(one, activation(), states={key: State(NOON, NOON + timedelta(seconds=30), 1)})

    assert (first.outcome, first.release_at) == ("held", NOON + timedelta(minutes=5))
    assert again.outcome == "suppressed"
    assert again.reason.startswith("deduplicated")
    assert [step.name for step in again.steps] == ["match", "condition", "parameters", "dedupe"]


# --- the same answer as the engine's


def engine(rules: list[CompiledRule], event: Activation, states: dict[StateKey, State]) -> dict[int, tuple[str, str]]:
    """Return outcome and reason of each rule as the way of an event through ingest gives them."""
    found = {one.rule_id: ("not_matched", "") for one in rules}
    for one in RuleIndex(rules).candidates(TENANT, event.envelope, event.channel, event.headers):
        evaluated = evaluate(one, event)
        if isinstance(evaluated, NotFired):
            found[one.rule_id] = ("not_fired", "")
        elif isinstance(evaluated, EvaluationError):
            found[one.rule_id] = ("error", evaluated.reason)
        else:
            outcome = apply_stages(one, evaluated, states, event.now).outcome
            if isinstance(outcome, Fire):
                found[one.rule_id] = ("fired", "")
            else:
                found[one.rule_id] = ("held" if isinstance(outcome, Hold) else "suppressed", outcome.reason)
    return found


VALUES = st.none() | st.booleans() | st.integers(-5, 2000) | st.sampled_from(["a", "", "${payload.a}"])
RULES = st.fixed_dictionaries(
    {"eventType": st.sampled_from(["order.created", "order.*", "#", "user.*", ["a", "order.#"]])},
    optional={
        "match": st.sampled_from([{"source": "order-service"}, {"source": "x"}, {"headers": {"x": "1"}}]),
        "condition": st.sampled_from(
            [
                "payload.a > 5",
                "payload.?b.orValue(1) == 1",
                "has(payload.a)",
                "payload.a == payload.b",
                "false",
                "payload.a",
            ]
        ),
        "parameters": st.sampled_from([{"p": "${payload.a}"}, {"p": "x ${payload.b:-none}"}, {"p": 1}]),
        "dedupe": st.sampled_from([{"key": "payload.a", "window": "1m"}]),
        "throttle": st.sampled_from(
            [{"limit": 1, "per": "1m", "onExceed": "drop"}, {"limit": 1, "per": "1m", "onExceed": "hold"}]
        ),
        "debounce": st.sampled_from([{"key": "eventType", "quiet": "5s"}]),
        "delay": st.just("1m"),
        "window": st.sampled_from(
            [{"allow": "* 13 * * *"}, {"allow": "* 13 * * *", "onClosed": "drop"}, {"allow": "* 12 * * *"}]
        ),
        "concurrency": st.sampled_from([{"max": 1}, {"key": "payload.b", "max": 2, "onExceed": "drop"}]),
    },
)


@settings(max_examples=300)
@given(
    st.lists(RULES, min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES),
    st.sampled_from(["order.created", "order", "user.created", "a"]),
    st.dictionaries(st.just("x"), st.sampled_from(["1", "2"])),
    st.booleans(),
)
def test_what_is_told_is_what_the_engine_does(written, payload, event_type: str, headers, seen_before: bool):
    rules = [rule(number, **fields) for number, fields in enumerate(written, start=1)]

    def event() -> Activation:
        return activation(payload, event_type=event_type, headers=headers)

    states: dict[StateKey, State] = {}
    if seen_before:
        for one in rules:
            evaluated = evaluate(one, event())
            if not isinstance(evaluated, (NotFired, EvaluationError)):
                states |= apply_stages(one, evaluated, {}, NOON - timedelta(seconds=1)).changed

    expected = engine(rules, event(), states)

    for one in rules:
        told = explain(one, event(), states=states)
        outcome, reason = expected[one.rule_id]
        assert told.outcome == outcome
        if outcome not in ("not_matched", "not_fired"):
            assert told.reason == reason
