from __future__ import annotations

from datetime import date
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.expressions.placeholders import PlaceholderContext, render
from tests.support.rules import activation, rule, spec
from triggers.rules.decide import EvaluationError, Fires, evaluate
from triggers.rules.spec import own_job_definition

PAYLOAD: dict[str, Any] = {
    "orderId": "o-1",
    "amount": 999.99,
    "n": 5,
    "flag": True,
    "nothing": None,
    "empty": "",
    "items": [{"sku": "a"}, {"sku": "b"}],
    "any key": {"it's": 1},
    "deep": {"er": {"est": "here"}},
    "evil": "${payload.secret}",
    "secret": "S3CRET",
    "command": "$(rm -rf x)\n`id`",
}


def rendered(text: Any, payload: Any = PAYLOAD, **more: Any) -> Any:
    found = evaluate(rule(parameters={"p": text}), activation(payload, **more))
    assert isinstance(found, Fires), found
    return found.parameters["p"]


def refused(text: Any, payload: Any = PAYLOAD, **more: Any) -> EvaluationError:
    found = evaluate(rule(parameters={"p": text}), activation(payload, **more))
    assert isinstance(found, EvaluationError), found
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        (7, 7),
        ("${payload.orderId}", "o-1"),
        ("${payload.n}", 5),
        ("${payload.flag}", True),
        ("${payload.amount}", 999.99),
        ("${payload.nothing}", None),
        ("${payload.items}", [{"sku": "a"}, {"sku": "b"}]),
        ("${payload.items[1].sku}", "b"),
        ("${payload.items.0.sku}", "a"),
        ("${payload['any key']['it\\'s']}", 1),
        ("${payload.deep.er.est}", "here"),
        ("${payload.deep}", {"er": {"est": "here"}}),
        ("${eventId}", "msg-1"),
        ("${eventType}", "order.created"),
        ("${timestamp}", "2027-03-01T11:59:30Z"),
        ("${source}", "order-service"),
        ("${traceId}", "trace-1"),
        ("${ruleId}", "a-rule"),
        ("${metadata.version}", "1.0"),
        ("${headers.X-Tenant}", "a"),
        ("${headers['x-tenant']}", "a"),
        ("order ${payload.orderId} at ${timestamp}", "order o-1 at 2027-03-01T11:59:30Z"),
        ("<${payload.nothing}>", "<>"),
        ("n=${payload.n} f=${payload.flag} i=${payload.items[0]}", 'n=5 f=true i={"sku":"a"}'),
        ("${payload.missing:-none}", "none"),
        ("${payload.missing:-}", ""),
        ("${payload.empty:-none}", ""),
        ("${payload.nothing:-none}", None),
        ("${priority:-MEDIUM}", "MEDIUM"),
        ("${destination:-nowhere}", "nowhere"),
        ("$${payload.orderId}", "${payload.orderId}"),
        ("$${payload.orderId} ${payload.n}", "${payload.orderId} 5"),
        ("cost $5 {x} $ {y}", "cost $5 {x} $ {y}"),
        ({"a": ["${payload.n}", {"b": "${source}"}]}, {"a": [5, {"b": "order-service"}]}),
    ],
)
def test_a_value_of_the_event_takes_its_place_with_its_type(text: Any, value: Any):
    found = rendered(text, headers={"x-tenant": "a"})

    assert found == value
    assert type(found) is type(value)


def test_keys_of_a_mapping_are_no_templates():
    found = rendered({"${payload.orderId}": 1})

    assert found == {"${payload.orderId}": 1}


def test_what_a_value_says_is_never_expanded_again():
    """Trap D7: replacing one key after the other expands what a payload smuggled in."""
    assert rendered("${payload.evil}") == "${payload.secret}"
    assert rendered("<${payload.evil}${payload.orderId}>") == "<${payload.secret}o-1>"
    assert rendered("${payload.orderId}", {"orderId": "${payload.amount}", "amount": "${payload.orderId}"}) == (
        "${payload.amount}"
    )


def test_a_value_reaches_a_command_as_its_environment_and_nothing_else():
    own = rule(taskType="shell", parameters={"command": 'echo "$PARAM_WHAT"', "what": "${payload.command}"})

    found = evaluate(own, activation(PAYLOAD))

    assert isinstance(found, Fires)
    (task,) = own_job_definition(own.spec)["tasks"]
    assert task["command"] == 'echo "$PARAM_WHAT"'
    context = PlaceholderContext(event=found.event)
    assert render(task["env"], context) == {"PARAM_WHAT": "$(rm -rf x)\n`id`"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${payload.missing}", "${payload.missing}: payload has no 'missing'"),
        ("x ${payload.deep.er.nothing.x}", "payload.deep.er has no 'nothing'"),
        ("${payload.items[2]}", "payload.items has no '2'"),
        ("${payload.orderId.x}", "payload.orderId has no 'x'"),
        ("${destination}", "${destination}: there is no such value"),
        ("${headers.x-none}", "${headers.x-none}"),
        ("${metadata.schema}", "metadata has no 'schema'"),
    ],
)
def test_a_value_that_is_missing_is_an_error_and_no_empty_text(text: str, words: str):
    found = refused({"inner": [text]})

    assert found.reason.startswith("parameter_error: ")
    assert words in found.reason
    assert found.position == "parameters.p.inner[0]"


def test_what_parameters_become_has_a_limit():
    text = "x" * 60_000

    assert rendered("${payload.t}", {"t": text}) == text
    assert refused("${payload.t}", {"t": "x" * 2**20}).reason == (
        "parameter_error: the parameters are larger than 65536 bytes"
    )
    assert "larger than" in refused(["${payload.t}", "${payload.t}"], {"t": text}).reason
    assert "larger than" in refused("${payload.t}" * 1000, {"t": text}).reason
    assert "larger than" in refused("${payload.t}", {"t": list(range(20_000))}).reason


def test_parameters_without_placeholders_are_not_copied():
    one = rule(parameters={"a": {"b": [1, "x"]}})

    first, second = evaluate(one, activation()), evaluate(one, activation())

    assert isinstance(first, Fires)
    assert isinstance(second, Fires)
    assert first.parameters is second.parameters


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(max_size=12)
    | st.sampled_from(["${x}", "$${", "}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.sampled_from(["a", "b-c", "any key", "it's", "q\\", "}", ":-"]) | st.text(max_size=4)


def written(key: str) -> str:
    escaped = key.replace("\\", "\\\\").replace("'", "\\'")
    return f"${{payload['{escaped}']}}"


@settings(max_examples=300)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), st.text(max_size=10), st.text(max_size=10))
def test_a_placeholder_is_read_once_and_gives_what_the_event_has(payload: dict[str, Any], before: str, after: str):
    before, after = (text.replace("$", "").replace("{", "").replace("\0", "") for text in (before, after))
    key, value = next(iter(payload.items()))
    if "\0" in key:
        return

    assert rendered(written(key), payload) == value
    text = "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
    assert rendered(f"{before}-{written(key)}{after}-", payload) == f"{before}-{text}{after}-"


@settings(max_examples=300)
@given(
    st.dictionaries(KEYS.filter(lambda key: "\0" not in key), VALUES, min_size=1, max_size=4),
    st.lists(
        st.sampled_from(
            [
                "${eventId}",
                "${timestamp}",
                "${traceId:-none}",
                "${priority:-LOW}",
                "${ruleId}",
                "$${payload.a}",
                "-",
                "${source}",
            ]
        ),
        max_size=4,
    ),
)
def test_the_rules_own_task_is_given_what_the_engine_rendered(payload: dict[str, Any], others: list[str]):
    key = next(iter(payload))
    text = written(key) + "".join(others)
    fields = {"taskType": "http", "parameters": {"url": "http://a", "json": {"p": text, "q": written(key)}}}
    own = rule(**fields)

    found = evaluate(own, activation(payload))

    assert isinstance(found, Fires)
    (task,) = own_job_definition(spec(**fields))["tasks"]
    context = PlaceholderContext(event=found.event, run_id=1, execution_date=date(2027, 3, 1))
    assert render(task["json"], context) == found.rendered["json"]
