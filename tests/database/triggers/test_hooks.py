"""Calls of webhooks: what is answered, what is stored, what never is."""

from __future__ import annotations

import gzip
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.fernet import Fernet
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.conf import options
from orchestrator.models import JobRun, Tenant, Transition
from orchestrator.services.secrets import set_secret
from tests.database.triggers.conftest import Offered
from tests.support import webhooks as sender
from tests.support.api import Api, problems
from tests.support.endpoints import Endpoint, new_endpoint
from tests.support.records import default_tenant, new_job, token_text
from tests.support.rules import spec
from triggers.metrics import SIGNATURE_FAILURES, WEBHOOK_REQUESTS
from triggers.models import DeadLetter, Event
from triggers.services.rules import create_rule
from triggers.services.sources import switch_source

pytestmark = pytest.mark.django_db
BODY = sender.text(sender.DEPLOYMENT_STATUS)
EVENT = {"messageId": "m-1", "eventType": "order.created", "payload": {"orderId": "o-1"}}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (key,)})


@pytest.fixture
def github() -> Endpoint:
    return new_endpoint("github")


@pytest.fixture
def generic() -> Endpoint:
    return new_endpoint("generic")


def call_generic(endpoint: Endpoint, body: Any, **headers: str) -> Any:
    raw = body if isinstance(body, bytes) else sender.text(body)
    return endpoint.call(raw, sender.generic(raw) | headers)


def test_a_signed_call_becomes_an_event_and_its_rule_a_run(github: Endpoint, offered: Offered) -> None:
    new_job("sync")
    create_rule(
        tenant=default_tenant(),
        spec=spec(eventType="github.deployment_status.*", condition="payload.environment == 'production'"),
        by="ada",
    )

    answered = github.call(BODY, sender.github(BODY, "deployment_status"))

    assert answered.status_code == 202, answered.json()
    event = Event.objects.get()
    assert answered.json() == {"eventId": event.pk, "duplicate": False}
    assert (event.event_type, event.channel, event.state) == (
        "github.deployment_status.success",
        "webhook:github",
        "matched",
    )
    assert event.payload["kind"] == "deployed"
    assert JobRun.objects.get().pk in offered.run_ids


def test_a_redelivery_is_a_duplicate_and_starts_nothing(github: Endpoint, offered: Offered) -> None:
    first = github.call(BODY, sender.github(BODY, "deployment_status"))

    again = github.call(BODY, sender.github(BODY, "deployment_status"))

    assert (again.status_code, again.json()) == (200, {"eventId": first.json()["eventId"], "duplicate": True})
    assert (Event.objects.count(), offered.run_ids) == (1, [])


def test_what_no_rule_wants_is_answered_as_if_one_did() -> None:
    """GitLab disables a hook whose calls fail four times in a row."""
    gitlab = new_endpoint("gitlab", secret=sender.SIGNING_SECRET)
    statuses = []
    for number in range(5):
        body = sender.text({"object_kind": "push", "after": str(number)})
        statuses.append(gitlab.call(body, sender.standard(body, message_id=f"w-{number}")).status_code)

    assert statuses == [202] * 5
    assert set(Event.objects.values_list("state", flat=True)) == {"no_match"}


@pytest.mark.parametrize("status", ["no signature", "wrong signature", "another body"])
def test_an_unsigned_call_is_refused_and_leaves_nothing_but_a_trace(github: Endpoint, status: str) -> None:
    headers = sender.github(BODY, "deployment_status", secret="other" if status == "wrong signature" else sender.SECRET)
    if status == "no signature":
        del headers["x-hub-signature-256"]
    counted = SIGNATURE_FAILURES.labels("github")._value.get()

    answered = github.call(BODY + b" " if status == "another body" else BODY, headers)

    assert (answered.status_code, answered.json()["code"]) == (401, "unauthenticated")
    assert not Event.objects.exists()
    assert not DeadLetter.objects.exists()
    assert SIGNATURE_FAILURES.labels("github")._value.get() == counted + 1


def test_failed_signatures_are_written_down_once_and_then_told_to_wait(github: Endpoint, monkeypatch: Any) -> None:
    from triggers.services import webhooks

    monkeypatch.setattr(webhooks, "_failures", webhooks._Failures(clock=lambda: 45.0))
    answers = [github.call(BODY, {"x-hub-signature-256": "sha256=00"}) for _ in range(61)]

    assert [answer.status_code for answer in answers] == [401] * 60 + [429]
    assert answers[-1]["Retry-After"] == "15"
    facts = Transition.objects.filter(subject="event_source", to_state="unverified")
    assert [fact.reason for fact in facts] == [
        "webhook github: a call from 127.0.0.1 was refused: the signature is wrong"
    ]
    # Who knows the secret is not shut out by those who do not.
    assert github.call(BODY, sender.github(BODY, "push")).status_code == 202


def test_while_a_secret_is_replaced_both_verify() -> None:
    endpoint = new_endpoint("github", secret="new", previous="old")

    statuses = [
        endpoint.call(BODY, sender.github(BODY, "push", secret=secret, delivery=secret)).status_code
        for secret in ("new", "old", "older")
    ]

    assert statuses == [202, 202, 401]


def test_a_secret_that_is_gone_lets_nobody_in(github: Endpoint) -> None:
    from orchestrator.models import Secret

    Secret.objects.all().delete()

    assert github.call(BODY, sender.github(BODY, "push")).status_code == 401
    assert github.call(BODY, sender.github(BODY, "push", secret="")).status_code == 401


def test_an_endpoint_that_is_none_is_not_found() -> None:
    answered = Client(raise_request_exception=False).post(
        "/api/v1/hooks/nobody", b"{}", content_type="application/json"
    )

    assert (answered.status_code, answered.json()["code"]) == (404, "not_found")


def test_a_disabled_endpoint_is_gone(github: Endpoint) -> None:
    switch_source(tenant=default_tenant(), slug="github", enabled=False, by="ada")

    assert github.call(BODY, sender.github(BODY, "push")).status_code == 410


def test_only_the_networks_that_are_named_may_call() -> None:
    endpoint = new_endpoint("github", allowed_networks=["192.0.2.0/24", "2001:db8::/32"])
    headers = sender.github(BODY, "push")

    assert endpoint.call(BODY, headers).status_code == 403
    assert endpoint.call(BODY, headers, REMOTE_ADDR="192.0.2.7").status_code == 202
    assert endpoint.call(BODY, headers, REMOTE_ADDR="::ffff:192.0.2.7").status_code == 200
    assert endpoint.call(BODY, headers, REMOTE_ADDR="not an address").status_code == 403


def test_size_is_judged_before_the_signature() -> None:
    endpoint = new_endpoint("generic", max_bytes=100)
    body = sender.text({**EVENT, "payload": {"x": "y" * 100}})

    assert endpoint.call(body, {}).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
    ],
)
def test_a_media_type_that_the_provider_does_not_send_is_refused(generic: Endpoint, headers: dict[str, str]) -> None:
    assert call_generic(generic, EVENT, **headers).status_code == 415


def test_a_compressed_body_is_refused_even_if_it_is_signed(generic: Endpoint) -> None:
    body = gzip.compress(sender.text(EVENT))

    assert call_generic(generic, body, **{"content-encoding": "gzip"}).status_code == 415
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "malformed"),
        (b"[]", "not_object"),
        (b'{"eventType": "a"}', "bad_field"),
        (b'{"eventType": "a", "payload": {}}', "no_id"),
        (b'{"eventType": "a", "messageId": "1", "payload": {"x": "\\u0000"}}', "db_rejected"),
    ],
)
def test_an_authentic_call_that_is_no_event_is_a_dead_letter(generic: Endpoint, body: bytes, reason: str) -> None:
    answered = call_generic(generic, body)

    assert (answered.status_code, answered.json()["code"]) == (400, reason)
    letter = DeadLetter.objects.get()
    assert (letter.reason, bytes(letter.raw), letter.channel) == (reason, body, "webhook:generic")


def test_a_problem_names_its_field(generic: Endpoint) -> None:
    assert problems(call_generic(generic, {**EVENT, "eventType": 7})) == {"eventType": "a text, not a number"}


def test_a_source_of_ours_is_refused(generic: Endpoint) -> None:
    answered = call_generic(generic, {**EVENT, "source": "platform"})

    assert (answered.status_code, DeadLetter.objects.get().reason) == (403, "reserved_source")


def test_a_call_that_cannot_be_mapped_keeps_its_own_bytes(github: Endpoint) -> None:
    body = b"[1]"

    answered = github.call(body, sender.github(body, "push"))

    assert answered.status_code == 400
    assert (DeadLetter.objects.get().reason, bytes(DeadLetter.objects.get().raw)) == ("not_object", body)


def test_a_dead_letter_is_mapped_anew_when_it_is_replayed() -> None:
    """The mapping was wrong, is put right, and what came meanwhile is not lost."""
    endpoint = new_endpoint("generic", mapping={"eventType": "payload.kind", "messageId": "payload.id"})
    assert call_generic(endpoint, {"type": "order.created", "id": "7"}).status_code == 400
    api = Api(token_text("admin"))
    source = api.get("/api/v1/event-sources/generic").json()
    source["config"]["mapping"]["eventType"] = "payload.type"
    put = {name: source[name] for name in ("slug", "type", "config", "secrets")}
    assert api.put("/api/v1/event-sources/generic", put, content_type="application/json").status_code == 200

    letters = [DeadLetter.objects.get().pk]
    replayed = api.send("/api/v1/replays", {"dead_letters": letters}, **{"Idempotency-Key": "again"})

    assert replayed.status_code in (200, 201, 202), replayed.json()
    assert DeadLetter.objects.get().state == "replayed"
    assert (Event.objects.get().event_type, Event.objects.get().message_id) == ("order.created", "7")


def test_the_same_id_with_another_body_is_a_conflict_and_the_first_stays(generic: Endpoint) -> None:
    call_generic(generic, EVENT)

    answered = call_generic(generic, {**EVENT, "payload": {"orderId": "o-2"}})

    assert (answered.status_code, answered.json()["code"]) == (409, "conflict")
    assert Event.objects.get().payload == {"orderId": "o-1"}
    assert DeadLetter.objects.get().reason == "conflict"


def test_one_event_by_two_channels_is_one_and_another_body_under_its_id_a_conflict(generic: Endpoint) -> None:
    api = Api(token_text("trigger"))
    event = {**EVENT, "source": "shop", "payload": {"a": 1, "b": 2}}

    first = call_generic(generic, event)
    again = api.send("/api/v1/events", {**event, "payload": {"b": 2, "a": 1}, "priority": "LOW"})
    other = api.send("/api/v1/events", {**event, "payload": {"a": 1, "b": 3}})

    assert (first.status_code, again.status_code, other.status_code) == (202, 200, 409)
    assert again.json()["eventId"] == first.json()["eventId"]
    assert Event.objects.get().payload == {"a": 1, "b": 2}


def test_the_same_id_of_two_sources_is_two_events() -> None:
    event = {"messageId": "m-1", "eventType": "a", "payload": {}}

    for slug in ("one", "two"):
        assert call_generic(new_endpoint("generic", slug=slug), event).status_code == 202

    assert set(Event.objects.values_list("source", flat=True)) == {"one", "two"}


def test_a_test_of_the_connection_is_answered_and_not_stored(github: Endpoint) -> None:
    body = b'{"zen": "Keep it logically awesome."}'

    answered = github.call(body, sender.github(body, "ping"))

    assert (answered.status_code, answered.json()) == (200, {"ping": True})
    assert not Event.objects.exists()


def test_forms_of_github_and_gitea_are_events() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"payload": BODY}).encode()
    github, gitea = new_endpoint("github"), new_endpoint("gitea")

    assert github.call(body, sender.github(body, "deployment_status") | form).status_code == 202
    assert gitea.call(body, sender.gitea(BODY, "deployment_status") | form).status_code == 202
    assert set(Event.objects.values_list("event_type", flat=True)) == {
        "github.deployment_status.success",
        "gitea.deployment_status.success",
    }


def test_nothing_that_proves_the_sender_is_stored() -> None:
    gitlab = new_endpoint("gitlab", secret="a plain token")
    body = sender.text(sender.GITLAB_DEPLOYMENT)
    headers = {
        "x-gitlab-token": "a plain token",
        "x-gitlab-event": "Deployment Hook",
        "authorization": "x",
        "cookie": "y",
    }

    assert gitlab.call(body, headers).status_code == 202
    assert gitlab.call(b"{}", headers).status_code == 400

    stored = [Event.objects.get().headers, DeadLetter.objects.get().headers]
    assert "plain token" not in json.dumps(stored)
    assert set(stored[0]) == {"content-type", "x-gitlab-event"}


class TestCloudEvents:
    HEADERS = {
        "authorization": "Bearer ce-secret",
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/shop",
        "ce-type": "order.created",
        "content-type": "application/json",
    }

    @pytest.fixture
    def endpoint(self) -> Endpoint:
        return new_endpoint("cloudevents", secret="ce-secret")

    def test_binary_structured_and_again_are_one_event(self, endpoint: Endpoint) -> None:
        structured = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "data": {"a": 1}}

        first = endpoint.call(b'{"a": 1}', self.HEADERS)
        again = endpoint.call(
            sender.text(structured),
            {"authorization": "Bearer ce-secret", "content-type": "application/cloudevents+json"},
        )

        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json() == {"eventId": first.json()["eventId"], "duplicate": True}

    def test_a_batch_is_answered_event_by_event(self, endpoint: Endpoint) -> None:
        batch = [
            {"specversion": "1.0", "id": str(number), "source": "/shop", "type": "order.created"}
            for number in (1, 2, 1)
        ]
        headers = {"authorization": "Bearer ce-secret", "content-type": "application/cloudevents-batch+json"}

        answered = endpoint.call(sender.text(batch), headers)

        assert answered.status_code == 202
        assert sorted(event["duplicate"] for event in answered.json()["events"]) == [False, False, True]
        assert Event.objects.count() == 2

    def test_who_asks_first_is_told_that_it_may_send(self, endpoint: Endpoint) -> None:
        answered = Client().options(endpoint.path, headers={"WebHook-Request-Origin": "events.example"})

        assert answered.status_code == 200
        assert (answered["WebHook-Allowed-Origin"], answered["WebHook-Allowed-Rate"]) == ("events.example", "*")
        assert answered["Allow"] == "POST, OPTIONS"

    def test_only_origins_that_are_named_are_told_so(self) -> None:
        endpoint = new_endpoint("cloudevents", slug="few", allowed_origins=["a.example"])

        assert "WebHook-Allowed-Origin" not in Client().options(
            endpoint.path, headers={"WebHook-Request-Origin": "b.example"}
        )
        assert Client(raise_request_exception=False).options("/api/v1/hooks/nobody").status_code == 404


def test_a_generic_source_with_a_mapping_gives_several_events_of_one_call() -> None:
    mapping = {"each": "payload.Records", "eventType": "'file.created'", "messageId": "item.key"}
    endpoint = new_endpoint("generic", mapping=mapping)
    body = {"Records": [{"key": "a"}, {"key": "b"}, {"key": "a"}]}

    answered = call_generic(endpoint, body)

    assert [event["duplicate"] for event in answered.json()["events"]] in ([False, False, True], [True, False, False])
    assert Event.objects.count() == 2


def test_of_several_events_the_bad_one_hurts_no_other() -> None:
    mapping = {"each": "payload.Records", "eventType": "item.type", "messageId": "item.key"}
    endpoint = new_endpoint("generic", mapping=mapping)
    body = {"Records": [{"key": "a", "type": "x"}, {"key": "b", "type": "y" * 300}]}

    answered = call_generic(endpoint, body)

    assert answered.status_code == 202
    good, bad = answered.json()["events"]
    assert (good["duplicate"], bad["eventId"], bad["error"]["code"]) == (False, None, "bad_field")


def test_an_event_belongs_to_the_tenant_of_its_source_whatever_it_says(generic: Endpoint) -> None:
    Tenant.objects.create(slug="other", name="Other")

    call_generic(generic, {**EVENT, "tenant": "other", "metadata": {"tenant": "other"}})

    assert Event.objects.get().tenant_id == default_tenant().pk


def test_calls_are_counted_by_endpoint_and_status(generic: Endpoint) -> None:
    before = [WEBHOOK_REQUESTS.labels("generic", status)._value.get() for status in ("202", "200", "401")]

    call_generic(generic, EVENT)
    call_generic(generic, EVENT)
    generic.call(b"{}", {})

    after = [WEBHOOK_REQUESTS.labels("generic", status)._value.get() for status in ("202", "200", "401")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]


def test_a_replaced_secret_is_in_use_within_a_second(github: Endpoint) -> None:
    set_secret(tenant=default_tenant(), name="github-secret", value="another", by="ada")

    assert github.call(BODY, sender.github(BODY, "push")).status_code == 401
    assert github.call(BODY, sender.github(BODY, "push", secret="another")).status_code == 202


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5).map(lambda v: json.dumps(v).encode())
    | st.dictionaries(
        st.sampled_from(["eventType", "payload", "messageId", "timestamp", "source", "priority", "metadata", "build", "type"]),
        st.none() | st.text(max_size=5) | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    ).map(lambda v: json.dumps(v).encode()),
    provider=st.sampled_from(["github", "gitea", "generic", "standard_webhooks", "cloudevents"]),
    content_type=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "application/cloudevents+json", "x/y"]),
)  # fmt: skip
def test_no_authentic_body_makes_us_fail(
    fuzzed: dict[str, Endpoint], body: bytes, provider: str, content_type: str
) -> None:
    """Whatever is in it: an event, a refusal that is a dead letter, or a media type that is none; never 500."""
    headers = {
        "github": lambda: sender.github(body, "push", delivery=sender.hex_hmac("", body)),
        "gitea": lambda: sender.gitea(body, "push", delivery=sender.hex_hmac("", body)),
        "generic": lambda: sender.generic(body),
        "standard_webhooks": lambda: sender.standard(body, message_id=sender.hex_hmac("", body)),
        "cloudevents": lambda: {"authorization": f"Bearer {sender.SECRET}"},
    }[provider]()

    answered = fuzzed[provider].call(body, headers | {"content-type": content_type})

    assert answered.status_code in (200, 202, 400, 401, 403, 409, 413, 415), answered.content
    if answered.status_code == 401:
        # Gitea signs a field of the form: without one there is nothing signed.
        assert provider == "gitea"


@pytest.fixture
def fuzzed() -> dict[str, Endpoint]:
    found = {name: new_endpoint(name) for name in ("github", "gitea", "generic", "cloudevents")}
    return found | {"standard_webhooks": new_endpoint("standard_webhooks", secret=sender.SIGNING_SECRET)}
