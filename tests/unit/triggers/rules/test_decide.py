from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rules import NOON, activation, form, rule, spec
from triggers.rules.decide import (
    NOT_FIRED,
    EvaluationError,
    Fires,
    NotFired,
    evaluate,
    key_hash,
    moment_text,
    prepare,
)
from triggers.rules.quarantine import BudgetErrors
from triggers.rules.rule import compile_rule
from triggers.rules.spec import RuleSpec, read_rule


def outcome(condition: str, payload: Any = None, **more: Any) -> Any:
    return evaluate(rule(condition=condition), activation(payload, **more))


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "payload.amount > 1000",
        "payload.amount > 1000 && payload.currency == 'CNY'",
        "payload.?coupon.orValue(0.0) < 1000.0",
        "!has(payload.coupon)",
        "payload.items.exists(i, i.qty > 4)",
        "metadata.version in ['1.0', '1.1']",
        "now - timestamp < duration('1h')",
        "timestamp.getHours('Asia/Shanghai') >= 8",
        "payload.version.matches('^v[0-9]+\\\\.[0-9]+\\\\.[0-9]+$')",
        "headers['x-tenant'] == 'a'",
        "eventType == 'order.created' && source == 'order-service'",
        "channel == 'kafka:business-events' && priority == 'HIGH' && destination == ''",
        "event.payload.amount == payload.amount && event.messageId == 'msg-1'",
        "event.timestamp == '2027-03-01T11:59:30Z' && !has(event.destination)",
        "payload.name == '北京'",
    ],
)
def test_a_condition_that_holds_fires(condition: str):
    payload = {"amount": 1500, "currency": "CNY", "items": [{"qty": 5}], "version": "v1.2.3", "name": "北京"}

    found = outcome(condition, payload, headers={"x-tenant": "a"}, priority="HIGH")

    assert isinstance(found, Fires), found


@pytest.mark.parametrize("condition", ["payload.amount > 2000", "payload.?missing.orValue(0) > 5", "source == 'x'"])
def test_a_condition_that_is_false_does_not_fire(condition: str):
    assert outcome(condition) is NOT_FIRED


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("payload.missing > 5", "condition_error: Key not found"),
        ("payload.orderId > 5", "condition_error: "),
        ("payload.orderId", "condition_error: the value is of type string"),
        ("payload.amount > '5'", "condition_error: "),
        ("headers['x-none'] == 'a'", "condition_error: Key not found"),
    ],
)
def test_a_condition_without_a_value_is_an_error_and_never_false(condition: str, words: str):
    found = outcome(condition)

    assert isinstance(found, EvaluationError)
    assert found.reason.startswith(words)
    assert found.position == "condition"
    assert not found.over_budget


def test_an_error_of_one_rule_leaves_the_events_other_rules_alone():
    event = activation()
    rules = [rule(1, condition="payload.missing > 5"), rule(2, condition="payload.amount > 1000"), rule(3)]

    found = [evaluate(one, event) for one in rules]

    assert [type(each) for each in found] == [EvaluationError, Fires, Fires]


def test_a_runaway_condition_is_stopped_and_known_as_such():
    condition = "payload.items.exists(a, payload.items.exists(b, payload.items.exists(c, a + b + c < 0)))"

    found = outcome(condition, {"items": list(range(10_000))})

    assert isinstance(found, EvaluationError)
    assert found.over_budget
    assert found.reason.startswith("over_budget: ")


def test_a_pattern_that_ruins_other_engines_is_only_false():
    assert outcome("payload.text.matches('^(a+)+$')", {"text": "a" * 100_000 + "b"}) is NOT_FIRED


def test_a_hundred_budget_errors_in_five_minutes_are_one_verdict():
    errors = BudgetErrors()

    assert [errors.note(7, NOON + timedelta(seconds=n)) for n in range(100)] == [False] * 99 + [True]
    assert not errors.note(7, NOON)
    assert not any(errors.note(8, NOON + timedelta(seconds=4 * n)) for n in range(300))


def test_an_event_that_is_nested_too_deeply_for_expressions_is_an_error():
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}

    found = outcome("payload.a.a == 1", {"a": deep})

    assert isinstance(found, EvaluationError)
    assert found.reason.startswith("too_deep: ")
    # A rule that looks at nothing is not concerned.
    assert isinstance(outcome("", {"a": deep}), Fires)


def test_javascript_is_no_language_of_conditions():
    """Trap D6: the condition as a script, whose errors are false."""
    for script in ("java.lang.Runtime.getRuntime().exec('id')", "this.constructor", "payload.amount = 5", "eval('1')"):
        read = read_rule(form(condition=script))

        assert not isinstance(read, RuleSpec), script
        assert read[0].path == "condition"
    # A typo is found when the rule is saved, or told of each event: it never drops events in silence.
    assert not isinstance(read_rule(form(condition="payloat.amount > 1")), RuleSpec)
    assert isinstance(outcome("payload.amuont > 1"), EvaluationError)


def test_a_rule_that_a_later_release_no_longer_understands_is_an_error_of_that_rule():
    stored = RuleSpec.from_canonical({**spec().canonical(), "condition": "gone(payload)"})
    broken = compile_rule(rule_id=1, version_id=1, number=1, tenant_id=1, spec=stored)

    found = evaluate(broken, activation())

    assert isinstance(found, EvaluationError)
    assert found.reason.startswith("rule_broken: ")


def test_a_run_keeps_the_event_as_the_tasks_of_its_job_read_it():
    found = evaluate(rule(), activation({"a": 1}, destination="schedule-platform"))

    assert isinstance(found, Fires)
    assert found.event == {
        "messageId": "msg-1",
        "eventType": "order.created",
        "timestamp": "2027-03-01T11:59:30Z",
        "source": "order-service",
        "destination": "schedule-platform",
        "payload": {"a": 1},
        "metadata": {"traceId": "trace-1", "version": "1.0"},
    }


def test_a_rule_with_its_own_task_hands_the_event_alone():
    own = rule(taskType="shell", parameters={"command": "true", "who": "${headers.x-user}"})

    found = evaluate(own, activation(headers={"x-user": "ada", "x-other": "b"}))

    assert isinstance(found, Fires)
    assert found.parameters == {}
    assert found.event["headers"] == {"x-user": "ada", "x-other": "b"}
    assert found.rendered == {"command": "true", "who": "ada"}


# --- keys


def test_keys_are_equal_for_equal_values_and_differ_for_others():
    stages = {"dedupe": {"key": "payload.id", "window": "1m"}, "throttle": {"limit": 1, "per": "1m"}}

    def keys(number: int, value: Any) -> Any:
        found = evaluate(rule(number, **stages), activation({"id": value}))
        assert isinstance(found, Fires)
        return found.dedupe_key_hash

    same = [keys(1, {"a": 1, "b": 2}), keys(1, {"b": 2, "a": 1})]
    assert same[0] == same[1]
    assert keys(1, 1) == keys(1, 1.0)
    different = {keys(1, value) for value in (1, "1", True, None, [1], {"a": 1}, 1.5, "", "\u00e9", "e\u0301")}
    assert len(different) == 10
    assert keys(1, "x") != keys(2, "x")


def test_a_key_that_is_missing_is_an_error_at_its_place():
    found = evaluate(rule(debounce={"key": "payload.table", "quiet": "1m"}), activation())

    assert isinstance(found, EvaluationError)
    assert (found.position, found.reason.partition(":")[0]) == ("debounce.key", "key_error")


def test_admission_counts_by_the_key_of_the_rule_or_else_by_the_order_of_the_transport():
    by_key = rule(concurrency={"key": "payload.customer", "max": 1})
    by_order = rule(concurrency={"max": 1})

    def admission(one: Any, customer: str, ordering_key: str) -> Any:
        found = evaluate(one, activation({"customer": customer}, ordering_key=ordering_key))
        assert isinstance(found, Fires)
        return found.admission_hash

    assert admission(by_key, "a", "x") == admission(by_key, "a", "y") != admission(by_key, "b", "x")
    assert admission(by_order, "a", "x") == admission(by_order, "b", "x") != admission(by_order, "a", "y")
    assert admission(rule(), "a", "x") is None


def test_a_key_of_any_type_of_cel_has_a_hash():
    for value in (b"\xff", datetime(2027, 1, 1, tzinfo=UTC), timedelta(1), {1: 2}, 2**63, -1.5, [None]):
        assert key_hash(1, "dedupe", value)
    for source in ("timestamp", "now - timestamp", "bytes('a')", "[payload.a, 1u]", "{1: 'a'}", "type(1)"):
        found = evaluate(rule(dedupe={"key": source, "window": "1m"}), activation({"a": None}))
        assert isinstance(found, (Fires, EvaluationError))


def test_what_was_held_is_prepared_without_asking_the_condition_again():
    later = rule(condition="payload.amount > 9999", parameters={"id": "${payload.orderId}"})

    found = prepare(later, activation())

    assert isinstance(found, Fires)
    assert found.parameters == {"id": "o-1"}


def test_a_moment_is_written_in_utc():
    assert moment_text(datetime(2027, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))) == "2027-01-01T00:00:00Z"
    assert moment_text(datetime(2027, 1, 1, 0, 0, 0, 500, tzinfo=UTC)) == "2027-01-01T00:00:00.000500Z"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=15,
)
PAYLOADS = st.dictionaries(st.sampled_from(["amount", "orderId", "items", "a b", "x"]) | st.text(max_size=5), JSON)


@settings(max_examples=300)
@given(
    PAYLOADS,
    st.sampled_from(
        [
            "",
            "payload.amount > 1",
            "payload.items.exists(i, i == payload.x)",
            "has(payload.x)",
            "payload.x",
            "payload == {}",
        ]
    ),
    st.sampled_from(["payload.orderId", "payload", "payload.?x", "timestamp", "[payload.amount]", "size(payload)"]),
    st.sampled_from(["${payload.x}", "a ${payload['a b']} b", "${payload.items[0]:-none}", "${payload}", "$${x}", 5]),
)
def test_deciding_never_raises(payload, condition: str, key: str, parameter):
    one = rule(
        condition=condition, dedupe={"key": key, "window": "1m"}, parameters={"p": [parameter, {"q": parameter}]}
    )

    found = evaluate(one, activation(payload))

    assert isinstance(found, (Fires, NotFired, EvaluationError))
    if isinstance(found, EvaluationError):
        assert found.reason.split(":")[0] in ("condition_error", "key_error", "parameter_error")
        assert len(found.reason) <= 500
