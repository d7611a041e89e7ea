"""What `/test` says of a rule and an event is what the engine then does with them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.dag.spec import JobSpec, ParameterSpec, TaskSpec
from orchestrator.models import Job, JobRun
from orchestrator.services.jobs import apply_definition, archive_job
from tests.support.api import Api, problems
from tests.support.contract_events import EVENT, contract_rules
from tests.support.records import default_tenant, token_text
from triggers.envelope import Received
from triggers.ingest.pipeline import Pipeline
from triggers.models import Event, Firing, TriggerRule
from triggers.rules_cache import RuleCache
from triggers.services import rules
from triggers.services.rule_tests import try_rule

pytestmark = pytest.mark.django_db
TEST = "/api/v1/task-trigger-rules/test"

CONDITIONS = (
    "", "payload.amount > 10", "payload.amount > '5'", "has(payload.shop) && payload.shop == 'a'",
    "payload.?amount.orValue(0) >= 1", "eventType.startsWith('order')", "headers['x-tenant'] == 'a'",
    "payload.items.exists(i, i > 2)",
)  # fmt: skip
PARAMETERS: tuple[dict[str, Any], ...] = (
    {}, {"n": "${payload.amount}"}, {"n": "${payload.amount:-1}"}, {"text": "shop ${payload.shop:-none} of ${eventType}"},
    {"text": "${payload.shop}"}, {"n": "no number"}, {"unknown": "x"},
)  # fmt: skip
STAGES: tuple[dict[str, Any], ...] = (
    {}, {"dedupe": {"key": "payload.shop", "window": "1h"}}, {"dedupe": {"key": "eventType", "window": "1h"}},
    {"throttle": {"limit": 1, "per": "1h", "onExceed": "drop"}}, {"throttle": {"limit": 1, "per": "1h", "onExceed": "hold"}},
    {"debounce": {"key": "eventType", "quiet": "1h"}}, {"batch": {"key": "eventType", "maxEvents": 2, "maxWait": "1h"}},
    {"delay": "1h"}, {"window": {"allow": "* * 1 1 *", "onClosed": "drop"}}, {"window": {"allow": "* * 1 1 *"}},
    {"concurrency": {"key": "payload.shop", "max": 1}},
)  # fmt: skip
TYPES = ("order.created", "order.created.v1", "payment.completed")
PATTERNS = ("order.created", "order.*", "order.#", ["payment.completed", "order.#"])
PAYLOADS = st.fixed_dictionaries(
    {}, optional={"amount": st.integers(-20, 20) | st.none(), "shop": st.sampled_from(["a", "b", 3]), "items": st.lists(st.integers(0, 4), max_size=3)},
)  # fmt: skip
EVENTS = st.tuples(st.sampled_from(TYPES), PAYLOADS)


def sync_job() -> None:
    parameters = (
        ParameterSpec("n", "integer", default=0, has_default=True),
        ParameterSpec("text", "string", default="", has_default=True),
    )
    spec = JobSpec("sync", tasks=(TaskSpec("one", "noop"),), parameters=parameters)
    apply_definition(tenant=default_tenant(), spec=spec, source="", author="ada")


@settings(max_examples=120)
@given(
    pattern=st.sampled_from(PATTERNS),
    condition=st.sampled_from(CONDITIONS),
    parameters=st.sampled_from(PARAMETERS),
    stage=st.sampled_from(STAGES),
    events=st.lists(EVENTS, min_size=1, max_size=3),
    archived=st.sampled_from([False, False, False, True]),
)
def test_the_test_says_what_the_engine_does(
    pattern: Any, condition: str, parameters: dict[str, Any], stage: dict[str, Any], events: list[Any], archived: bool
) -> None:
    with transaction.atomic():
        sync_job()
        form = {
            "ruleId": "sync", "eventType": pattern, "taskName": "sync", "condition": condition,
            "parameters": parameters, **stage,
        }  # fmt: skip
        rule = rules.create_rule(tenant=default_tenant(), spec=rules.spec_of(form), by="ada")
        if archived:
            archive_job(Job.objects.get(name="sync"), by="ada")
        pipeline = Pipeline(None, cache=RuleCache(), tenant_id=default_tenant().pk)

        for number, (event_type, payload) in enumerate(events):
            body = {**EVENT, "messageId": f"msg-{number}", "eventType": event_type, "payload": payload}
            said = try_rule(tenant=default_tenant(), rule=rule, event=body)

            done = ingested(pipeline, body, rule)

            assert (said["outcome"], word(said["reason"])) == (done[0], word(done[1])), (form, body, said, done)
            if done[0] == "fired":
                run = JobRun.objects.latest("pk")
                shown = {name: run.parameters[name] for name in said["parameters"]}
                assert said["parameters"] == shown, (form, body)
        # The next example finds an empty ledger.
        transaction.set_rollback(True)


def word(reason: str) -> str:
    return reason.split(":")[0].split(" ")[0]


def ingested(pipeline: Pipeline, body: dict[str, Any], rule: TriggerRule) -> tuple[str, str]:
    """What the engine made of the event: outcome and reason, in the words of `/test`."""
    prepared = pipeline.prepare([Received("api", orjson.dumps(body))], timezone.now())
    pipeline.write(prepared)
    event = Event.objects.get(message_id=body["messageId"])
    firing = Firing.objects.filter(event_id=event.pk).first()
    if firing is not None:
        return firing.outcome, firing.reason
    if event.not_fired:
        return "not_fired", "the condition is false"
    return "not_matched", f"eventType: {event.event_type}"


@pytest.fixture
def api() -> Api:
    return Api(token_text("read", name="ada"))


def test_a_rule_is_tested_before_it_is_stored_and_nothing_is_left_behind(api: Api):
    answered = api.send(TEST, {"rule": contract_rules()[0], "eventMessage": {**EVENT, "payload": {"amount": 1001}}})

    assert answered.status_code == 200, answered.json()
    said = answered.json()
    assert (said["outcome"], said["reason"]) == ("fired", "")
    assert [(step["step"], step["outcome"]) for step in said["steps"]] == [
        ("match", "passed"), ("condition", "passed"), ("parameters", "passed"), ("job", "passed"),
    ]  # fmt: skip
    assert said["parameters"]["script"] == "/scripts/process-high-value-order.sh"
    assert (TriggerRule.objects.count(), Event.objects.count(), JobRun.objects.count()) == (0, 0, 0)


def test_the_example_of_the_contract_does_not_fire_and_says_why(api: Api):
    said = api.send(TEST, {"rule": contract_rules()[0], "eventMessage": EVENT}).json()

    assert said["outcome"] == "not_fired"
    assert said["steps"][-1] == {
        "step": "condition", "outcome": "stopped", "detail": "payload.amount > 1000", "value": False,
    }  # fmt: skip


def test_an_error_says_where_it_is(api: Api):
    said = api.send(TEST, {"rule": contract_rules()[0], "eventMessage": {**EVENT, "payload": {}}}).json()

    assert (said["outcome"], said["steps"][-1]["outcome"]) == ("error", "error")
    assert said["steps"][-1]["value"] == {"position": "condition"}


def test_what_is_wrong_with_rule_or_event_is_told(api: Api):
    rule = contract_rules()[0]

    assert set(problems(api.send(TEST, {"rule": {**rule, "condition": "1 +"}, "eventMessage": EVENT}))) == {"condition"}
    assert set(problems(api.send(TEST, {"rule": rule, "eventMessage": {"payload": {}}}))) == {"eventMessage"}
    assert set(problems(api.send(TEST, {"rule": 3}))) == {"rule", "eventMessage"}
    assert api.send(TEST, {"rule": "unknown", "eventMessage": EVENT}).status_code == 404
    named = {"ruleId": "sync", "eventType": "order.#", "taskName": "gone"}
    said = api.send(TEST, {"rule": named, "eventMessage": EVENT}).json()
    assert (said["outcome"], said["steps"][-1]["step"]) == ("suppressed", "job")
