"""Events with a token: whose they are, what is answered, what a repeat is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.models import JobRun, Tenant
from tests.database.triggers.conftest import Offered
from tests.support.api import Api, problems
from tests.support.records import default_tenant, new_job, token_text
from tests.support.rules import spec
from triggers.models import DeadLetter, Event
from triggers.services.rules import create_rule

pytestmark = pytest.mark.django_db
EVENTS = "/api/v1/events"
EVENT: dict[str, Any] = {
    "messageId": "msg-20250906-123456",
    "eventType": "order.created",
    "timestamp": "2025-09-06T10:30:00Z",
    "source": "order-service",
    "payload": {"orderId": "order-12345", "amount": 999.99},
}


@pytest.fixture
def api() -> Api:
    return Api(token_text("trigger"))


def test_an_event_with_a_token_starts_what_the_rules_say(api: Api, offered: Offered) -> None:
    new_job("sync")
    create_rule(tenant=default_tenant(), spec=spec(eventType="order.created"), by="ada")

    answered = api.send(EVENTS, EVENT)

    event = Event.objects.get()
    assert (answered.status_code, answered.json()) == (202, {"eventId": event.pk, "duplicate": False})
    assert (event.channel, event.event_source_id, event.tenant_id) == ("api", None, default_tenant().pk)
    assert offered.run_ids == [JobRun.objects.get().pk]


def test_a_repeat_is_the_same_event(api: Api, offered: Offered) -> None:
    first = api.send(EVENTS, EVENT).json()["eventId"]

    again = api.send(EVENTS, EVENT)

    assert (again.status_code, again.json()) == (200, {"eventId": first, "duplicate": True})


def test_the_same_id_with_another_body_is_a_conflict(api: Api) -> None:
    api.send(EVENTS, EVENT)

    answered = api.send(EVENTS, {**EVENT, "payload": {}})

    assert (answered.status_code, answered.json()["code"]) == (409, "conflict")
    assert Event.objects.get().payload == EVENT["payload"]


def test_without_an_id_each_call_is_an_event_unless_a_key_says_otherwise(api: Api) -> None:
    event = {key: value for key, value in EVENT.items() if key != "messageId"}

    statuses = [api.send(EVENTS, event).status_code for _ in range(2)]
    keyed = [api.send(EVENTS, event, **{"Idempotency-Key": "k-1"}).status_code for _ in range(2)]

    assert (statuses, keyed) == ([202, 202], [202, 200])
    assert api.send(EVENTS, event, **{"Idempotency-Key": "x" * 201}).status_code == 400


def test_the_source_is_api_unless_the_event_names_one(api: Api) -> None:
    api.send(EVENTS, {"eventType": "a", "payload": {}})

    assert Event.objects.get().source == "api"


def test_an_array_is_answered_event_by_event_and_a_bad_one_hurts_no_other(api: Api) -> None:
    answered = api.send(EVENTS, [EVENT, {"eventType": "a"}, 7, {**EVENT, "messageId": "2"}])

    assert answered.status_code == 202
    shown = answered.json()["events"]
    assert [event.get("error", {}).get("code") for event in shown] == [None, "bad_field", "not_object", None]
    assert [event["eventId"] is None for event in shown] == [False, True, True, False]
    assert (Event.objects.count(), DeadLetter.objects.count()) == (2, 2)


def test_an_array_has_its_bounds(api: Api) -> None:
    assert api.send(EVENTS, []).status_code == 400
    assert api.send(EVENTS, [EVENT] * 501).status_code == 400
    assert not Event.objects.exists()


def test_an_array_of_one_is_answered_as_an_array(api: Api) -> None:
    assert list(api.send(EVENTS, [EVENT]).json()) == ["events"]


def test_cloud_events_are_taken_in_every_mode(api: Api) -> None:
    cloud = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "data": {"a": 1}}
    binary = {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/shop", "ce-type": "order.created"}

    structured = api.post(EVENTS, cloud, content_type="application/cloudevents+json")
    in_headers = api.send(EVENTS, {"a": 1}, **binary)
    batch = api.post(EVENTS, [cloud, {**cloud, "id": "3"}], content_type="application/cloudevents-batch+json")

    assert (structured.status_code, in_headers.status_code, batch.status_code) == (202, 202, 202)
    assert [event["duplicate"] for event in batch.json()["events"]] == [True, False]
    assert list(Event.objects.values_list("source", flat=True).distinct()) == ["/shop"]


@pytest.mark.parametrize(
    ("scopes", "status"), [(("read",), 403), (("operate",), 403), (("trigger",), 202), (("admin",), 202)]
)
def test_sending_events_takes_the_scope_trigger(scopes: tuple[str, ...], status: int) -> None:
    assert Api(token_text(*scopes)).send(EVENTS, EVENT).status_code == status


def test_without_a_token_nothing_is_taken() -> None:
    assert Api(None).send(EVENTS, EVENT).status_code == 401


def test_a_token_for_some_jobs_may_not_send_events_which_may_start_any() -> None:
    new_job("sync")

    assert Api(token_text("trigger", jobs=("sync",))).send(EVENTS, EVENT).status_code == 403


def test_an_event_belongs_to_the_tokens_tenant_and_starts_its_jobs_alone(offered: Offered) -> None:
    other = Tenant.objects.create(slug="other", name="Other")
    new_job("sync")
    create_rule(tenant=default_tenant(), spec=spec(eventType="order.created"), by="ada")

    answered = Api(token_text("trigger", tenant=other)).send(EVENTS, EVENT)

    assert answered.status_code == 202
    assert (Event.objects.get().tenant_id, Event.objects.get().state, offered.run_ids) == (other.pk, "no_match", [])
    # The same id of another tenant is another event.
    assert Api(token_text("trigger")).send(EVENTS, EVENT).status_code == 202


@pytest.mark.parametrize(
    ("event", "status", "path"),
    [
        ({**EVENT, "eventType": None}, 400, "eventType"),
        ({**EVENT, "payload": "text"}, 400, "payload"),
        ({**EVENT, "timestamp": "noon"}, 400, "timestamp"),
        ({**EVENT, "source": "schedule"}, 403, "source"),
    ],
)
def test_what_is_wrong_is_named_and_kept_as_a_dead_letter(api: Api, event: Any, status: int, path: str) -> None:
    answered = api.send(EVENTS, event)

    assert (answered.status_code, list(problems(answered))) == (status, [path])
    assert DeadLetter.objects.get().tenant_id == default_tenant().pk


def test_a_compressed_body_is_refused(api: Api) -> None:
    assert api.send(EVENTS, b"\x1f\x8b", **{"Content-Encoding": "gzip"}).status_code == 415


def test_secrets_of_the_call_are_not_stored(api: Api) -> None:
    api.send(EVENTS, EVENT, Cookie="a=b", **{"X-Request-Id": "r-1"})

    assert set(Event.objects.get().headers) <= {"content-type", "x-request-id", "user-agent"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=100),
    content_type=st.sampled_from(["application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "a"]),
)  # fmt: skip
def test_no_body_makes_us_fail(fuzzing: Api, body: bytes, content_type: str) -> None:
    assert fuzzing.post(EVENTS, body, content_type=content_type).status_code in (202, 200, 400)


@pytest.fixture
def fuzzing(monkeypatch: pytest.MonkeyPatch) -> Api:
    from orchestrator.conf import options

    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_RATE_PER_MINUTE": 0})
    return Api(token_text("trigger"))
