"""Event sources over the API and in files: typed fields, secrets by name, and nobody who reads what another reads."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models import Secret, Tenant, Transition
from tests.support.api import Api, problems
from tests.support.records import default_tenant, token_text
from triggers.models import EventSource
from triggers.rules_cache import current_epoch

pytestmark = pytest.mark.django_db
SOURCES = "/api/v1/event-sources"
KAFKA: dict[str, Any] = {
    "slug": "business",
    "type": "kafka",
    "config": {"bootstrap": "kafka-1:9092,kafka-2:9092", "topics": ["business-events"]},
}
WEBHOOK: dict[str, Any] = {
    "slug": "deployments",
    "type": "webhook",
    "config": {"provider": "github"},
    "secrets": {"current": "github-webhook"},
}


@pytest.fixture
def api() -> Api:
    Secret.objects.create(tenant=default_tenant(), name="github-webhook", ciphertext=b"x")
    return Api(token_text("admin", name="ada"))


def put(api: Api, body: dict[str, Any], **headers: str) -> Any:
    return api.put(f"{SOURCES}/{body['slug']}", body, content_type="application/json", headers=headers)


def test_a_webhook_gets_an_endpoint_that_stays(api: Api):
    created = api.send(SOURCES, WEBHOOK)

    assert created.status_code == 201, created.json()
    answered = created.json()
    assert created["Location"].endswith(f"{SOURCES}/deployments")
    assert answered["hook_url"].endswith(f"/api/v1/hooks/{answered['endpoint']}")
    assert len(answered["endpoint"]) >= 20
    assert (answered["id_policy"], answered["enabled"], answered["listeners"]) == ("transport", True, [])
    changed = put(api, {**answered, "config": {"provider": "gitlab"}}, **{"If-Match": created["ETag"]})
    assert (changed.status_code, changed["ETag"]) == (200, '"2"')
    assert changed.json()["endpoint"] == answered["endpoint"]


def test_putting_what_was_read_changes_nothing(api: Api):
    created = api.send(SOURCES, KAFKA).json()
    epoch = current_epoch()

    again = put(api, api.get(f"{SOURCES}/business").json())

    assert (again.status_code, again["ETag"]) == (200, '"1"')
    assert again.json() == created
    assert EventSource.objects.get().version == 1
    assert current_epoch() >= epoch


def test_a_stale_etag_is_refused(api: Api):
    api.send(SOURCES, KAFKA)
    put(api, {**KAFKA, "enabled": False})

    assert put(api, KAFKA, **{"If-Match": '"1"'}).status_code == 412
    assert api.send(f"{SOURCES}/business/enable", **{"If-Match": '"1"'}).status_code == 412
    assert api.delete(f"{SOURCES}/business", headers={"If-Match": '"1"'}).status_code == 412
    assert api.send(f"{SOURCES}/business/enable", **{"If-Match": '"2"'}).json()["enabled"] is True


def test_all_that_is_wrong_comes_at_once(api: Api):
    refused = api.send(
        SOURCES,
        {
            **KAFKA,
            "slug": "business",
            "config": {"topics": [], "group": "x"},
            "secrets": {"passwort": "github-webhook"},
        },
    )

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_source")
    assert set(problems(refused)) == {"config.topics", "config.group", "secrets.passwort"}
    assert set(problems(api.send(SOURCES, {"slug": "X y", "type": "file"}))) == {"slug", "type"}
    assert set(problems(api.send(SOURCES, {"type": "kafka", "colour": 1, "enabled": "no"}))) == {
        "slug", "colour", "enabled",
    }  # fmt: skip
    assert "slug" in problems(api.send(SOURCES, {**KAFKA, "slug": "platform"}))
    assert not EventSource.objects.exists()


def test_a_secret_must_be_there_and_is_never_shown(api: Api):
    refused = api.send(SOURCES, {**WEBHOOK, "secrets": {"current": "nowhere"}})

    assert problems(refused) == {"secrets.current": "the name of a stored secret"}
    api.send(SOURCES, WEBHOOK)
    assert api.get(f"{SOURCES}/deployments").json()["secrets"] == {"current": "github-webhook"}
    kept = api.delete("/api/v1/secrets/github-webhook")
    assert (kept.status_code, kept.json()["code"]) == (409, "secret_in_use")
    assert "event source deployments" in kept.json()["message"]
    api.delete(f"{SOURCES}/deployments")
    assert api.delete("/api/v1/secrets/github-webhook").status_code == 204


def test_the_first_kafka_source_has_the_contracts_group_and_further_ones_their_own(api: Api):
    first = api.send(SOURCES, KAFKA).json()
    second = api.send(SOURCES, {**KAFKA, "slug": "tasks", "config": {**KAFKA["config"], "topics": ["schedule-tasks"]}})
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))
    third = stranger.send(SOURCES, {**KAFKA, "slug": "tasks"})

    assert first["config"]["group_id"] == "schedule-trigger-group"
    assert second.json()["config"]["group_id"] == "schedule-trigger-group.tasks"
    # Of another tenant, and yet in nobody's group.
    assert third.json()["config"]["group_id"] == "schedule-trigger-group.tasks.other"


def test_two_sources_never_share_topic_and_group_not_even_over_tenants(api: Api):
    api.send(SOURCES, KAFKA)
    config = {
        "bootstrap": "kafka-2:9092, kafka-1:9092",
        "topics": ["other", "business-events"],
        "group_id": "schedule-trigger-group",
    }

    refused = api.send(SOURCES, {**KAFKA, "slug": "again", "config": config})
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))
    theirs = stranger.send(SOURCES, {**KAFKA, "slug": "again", "config": config})

    assert (refused.status_code, refused.json()["code"]) == (409, "source_in_use")
    assert "business-events: the event source business" in refused.json()["message"]
    assert theirs.status_code == 409
    assert "event source business" not in theirs.json()["message"]
    assert api.send(SOURCES, {**KAFKA, "slug": "again", "config": {**config, "group_id": "mine"}}).status_code == 201


def test_two_sources_never_read_one_queue(api: Api):
    queue = {"slug": "tasks", "type": "rabbitmq", "config": {"host": "mq", "queues": ["schedule.main.queue"]}}

    assert api.send(SOURCES, queue).status_code == 201
    assert api.send(SOURCES, {**queue, "slug": "again"}).json()["code"] == "source_in_use"
    assert api.send(SOURCES, queue).json()["code"] == "source_exists"


def test_a_source_stays_of_its_kind(api: Api):
    api.send(SOURCES, KAFKA)

    refused = put(api, {**WEBHOOK, "slug": "business"})

    assert set(problems(refused)) == {"type"}


def test_a_source_of_several_tenants_names_those_that_there_are(api: Api):
    config = {**KAFKA["config"], "tenant": "payload.tenant", "tenants": ["default", "nobody"]}

    refused = api.send(SOURCES, {**KAFKA, "config": config})

    assert problems(refused) == {"config.tenants[1]": "the slug of a tenant"}


def test_every_change_is_a_fact_with_its_author_and_told_to_the_listeners(api: Api):
    epochs = [current_epoch()]
    api.send(SOURCES, KAFKA)
    epochs.append(current_epoch())
    api.send(f"{SOURCES}/business/disable", {"reason": "maintenance"})
    epochs.append(current_epoch())
    api.delete(f"{SOURCES}/business")
    epochs.append(current_epoch())

    assert epochs == sorted(set(epochs))
    facts = Transition.objects.filter(subject="event_source").order_by("pk")
    assert [(each.from_state, each.to_state, each.by) for each in facts] == [
        ("", "enabled", "token:ada"),
        ("enabled", "disabled", "token:ada"),
        ("disabled", "deleted", "token:ada"),
    ]
    assert "maintenance" in facts[1].reason


def test_sources_are_listed_by_type_and_read_by_readers_only(api: Api):
    api.send(SOURCES, KAFKA)
    api.send(SOURCES, WEBHOOK)
    reader, operator = Api(token_text("read")), Api(token_text("operate"))

    assert [each["slug"] for each in reader.get(SOURCES).json()["items"]] == ["business", "deployments"]
    assert [each["slug"] for each in reader.get(f"{SOURCES}?type=kafka").json()["items"]] == ["business"]
    assert operator.send(SOURCES, KAFKA).status_code == 403
    assert reader.send(f"{SOURCES}/business/disable").status_code == 403
    assert operator.send(f"{SOURCES}/business/disable").json()["enabled"] is False
