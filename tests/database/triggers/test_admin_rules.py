"""Rules and sources in the admin: typed, refused with every problem, tried, switched, deleted; never past a service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import Permission
from django.test import Client

from orchestrator.conf import options
from orchestrator.models import Job, JobRun, Transition
from orchestrator.services.secrets import set_secret
from tests.support import rules as written
from tests.support.records import default_tenant, new_job
from triggers.models import Event, EventSource, Firing, RuleVersion, TriggerRule
from triggers.rules.text import rule_text
from triggers.services.rule_tests import try_rule
from triggers.services.rules import create_rule, replace_rule, spec_of_rule
from triggers.services.sources import SourceSpec, create_source

pytestmark = pytest.mark.django_db

RULE = """\
ruleId: order-created
ruleName: 订单创建触发数据同步
eventType: order.created
condition: payload.amount > 1000
taskName: sync
"""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = (Fernet.generate_key().decode(),)
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": keys})


def path(model: str, rest: str = "") -> str:
    return f"/admin/triggers/{model}/{rest}"


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    return {name: list(words) for name, words in response.context["adminform"].form.errors.items()}


def stored(**fields: Any) -> TriggerRule:
    if not Job.objects.exists():
        new_job("sync")
    return create_rule(tenant=default_tenant(), spec=written.spec(**fields), by="ada")


def save(client: Client, definition: str, rule: TriggerRule | None = None, **more: Any) -> Any:
    fields = {"definition": definition, "comment": "", "seen_version": rule.version if rule else "", **more}
    if rule is None:
        return client.post(path("triggerrule", "add/"), {**fields, "tenant": default_tenant().pk})
    return client.post(path("triggerrule", f"{rule.pk}/change/"), fields)


def act(client: Client, model: str, action: str, *rows: int, reason: str = "") -> list[str]:
    asked = {"action": action, "_selected_action": list(rows)}
    assert "Yes, do it" in client.post(path(model), asked).content.decode()
    answer = client.post(path(model), {**asked, "confirmed": "yes", "reason": reason}, follow=True)
    return [str(message) for message in answer.context["messages"]]


# --- rules


def test_a_rule_is_typed_and_becomes_its_first_version(admin_client: Client) -> None:
    new_job("sync")

    answer = save(admin_client, RULE, comment="as asked")

    assert answer.status_code == 302
    rule = TriggerRule.objects.get()
    assert (rule.slug, rule.name, rule.version, rule.updated_by) == (
        "order-created", "订单创建触发数据同步", 1, "user:admin",
    )  # fmt: skip
    assert RuleVersion.objects.get().comment == "as asked"


def test_json_and_a_file_of_one_rule_are_taken_too(admin_client: Client) -> None:
    new_job("sync")

    assert save(admin_client, json.dumps(written.form(ruleId="by-json"))).status_code == 302
    assert save(admin_client, json.dumps({"taskTriggerRules": [written.form(ruleId="of-file")]})).status_code == 302
    assert list(TriggerRule.objects.order_by("slug").values_list("slug", flat=True)) == ["by-json", "of-file"]


def test_everything_that_is_wrong_is_said_at_once(admin_client: Client) -> None:
    answer = save(admin_client, "ruleId: Not An Id\neventType: or*der\ncondition: payload.a >\ntaskNam: x\n")

    said = " | ".join(errors_of(answer)["definition"])
    for words in ("ruleId: not an id", "eventType: a wildcard", "condition: unexpected end", "taskNam: unknown field"):
        assert words in said
    assert not TriggerRule.objects.exists()


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("a: [", "not YAML"),
        ("[]", "not one mapping"),
        (RULE.replace("sync", "no-such-job"), "the name of a job"),
        (RULE + "taskType: no-such-type\n", "taskType"),
        (RULE + "taskType: http\nparameters: {url: 'ftp://x'}\n", "parameters.url"),
        (RULE + "gates: [x]\n", "gates: not offered"),
    ],
)
def test_what_no_rule_says_and_what_only_the_service_knows_is_said_beside_the_text(
    admin_client: Client, definition: str, words: str
) -> None:
    new_job("sync")

    answer = save(admin_client, definition)

    assert words in " | ".join(errors_of(answer)["definition"])
    # What was typed is still there.
    assert definition.splitlines()[0] in answer.content.decode()
    assert not TriggerRule.objects.exists()


def test_a_change_makes_a_version_and_the_same_text_none(admin_client: Client) -> None:
    rule = stored()
    text = rule_text(spec_of_rule(rule))

    assert save(admin_client, text, rule).status_code == 302
    assert TriggerRule.objects.get().version == 1
    assert save(admin_client, text + "condition: payload.amount > 1\n", rule).status_code == 302
    assert TriggerRule.objects.get().version == 2


def test_a_rule_that_another_changed_meanwhile_is_not_overwritten(admin_client: Client) -> None:
    rule = stored()
    replace_rule(tenant=default_tenant(), spec=written.spec(condition="payload.a > 1"), by="eve")

    answer = save(admin_client, rule_text(spec_of_rule(rule)) + "condition: payload.b > 1\n", rule)

    assert "at version 2, not 1" in errors_of(answer)["definition"][0]
    assert TriggerRule.objects.get().spec["condition"] == "payload.a > 1"


def test_a_rule_keeps_its_id(admin_client: Client) -> None:
    rule = stored()

    answer = save(admin_client, rule_text(spec_of_rule(rule)).replace("a-rule", "another"), rule)

    assert "a rule keeps its id" in errors_of(answer)["definition"][0]


def test_rules_are_disabled_enabled_and_deleted_after_a_question(admin_client: Client) -> None:
    rule = stored()

    assert act(admin_client, "triggerrule", "disable", rule.pk, reason="too many") == ["a-rule: disabled"]
    assert not TriggerRule.objects.get().enabled
    act(admin_client, "triggerrule", "enable", rule.pk)
    assert TriggerRule.objects.get().enabled
    act(admin_client, "triggerrule", "delete_chosen", rule.pk, reason="no longer used")

    assert TriggerRule.objects.get().deleted_at is not None
    facts = Transition.objects.filter(subject="rule", subject_id=rule.pk).order_by("pk")
    assert [fact.to_state for fact in facts][-3:] == ["disabled", "enabled", "deleted"]
    assert facts.last().by == "user:admin"  # type: ignore[union-attr]


def test_a_deleted_rule_is_out_of_the_list_and_still_to_be_read(admin_client: Client) -> None:
    rule = stored()
    act(admin_client, "triggerrule", "delete_chosen", rule.pk)

    assert not admin_client.get(path("triggerrule")).context["cl"].result_list
    assert len(admin_client.get(path("triggerrule", "?deleted=yes")).context["cl"].result_list) == 1
    page = admin_client.get(path("triggerrule", f"{rule.pk}/change/"))
    assert page.status_code == 200
    assert "deleted" in page.content.decode()
    assert save(admin_client, RULE, rule).status_code == 403


def test_a_rule_goes_back_to_an_earlier_version(admin_client: Client) -> None:
    rule = stored(condition="payload.a > 1")
    replace_rule(tenant=default_tenant(), spec=written.spec(condition="payload.a > 2"), by="eve")
    first = RuleVersion.objects.get(rule=rule, number=1)

    act(admin_client, "ruleversion", "roll_back", first.pk)

    rule.refresh_from_db()
    assert (rule.version, rule.spec["condition"]) == (3, "payload.a > 1")


def test_who_may_only_look_reads_the_rule_and_tries_it(client: Client, django_user_model: Any) -> None:
    rule = stored(condition="payload.amount > 1000")
    person = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename="view_triggerrule"))
    client.force_login(person)

    page = client.get(path("triggerrule", f"{rule.pk}/change/"))

    assert "payload.amount &gt; 1000" in page.content.decode()
    assert save(client, RULE, rule).status_code == 403
    assert client.get(path("triggerrule", f"{rule.pk}/test/")).status_code == 200


# --- the test box


def tried(client: Client, rule: TriggerRule, event: Any, definition: str | None = None) -> Any:
    text = rule_text(spec_of_rule(rule)) if definition is None else definition
    body = event if isinstance(event, str) else json.dumps(event)
    return client.post(
        path("triggerrule", f"{rule.pk}/test/"), {"definition": text, "event": body, "channel": "kafka:a"}
    )


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [({"amount": 2000, "id": "o-1"}, "fired"), ({"amount": 5, "id": "o-1"}, "not_fired"), ({"id": "o-1"}, "error")],
)
def test_the_test_box_gives_the_services_own_answer(
    admin_client: Client, payload: dict[str, Any], outcome: str
) -> None:
    rule = stored(condition="payload.amount > 1000")
    event = {"messageId": "m", "eventType": "order.created", "payload": payload}

    answer = tried(admin_client, rule, event)

    asked = try_rule(tenant=default_tenant(), rule=spec_of_rule(rule), event=event, channel="kafka:a")
    assert answer.context["answer"]["outcome"] == asked["outcome"] == outcome
    assert answer.context["answer"]["steps"] == asked["steps"]
    assert f"Outcome: {outcome}" in answer.content.decode()


def test_the_test_box_tries_what_is_typed_and_stores_nothing(admin_client: Client) -> None:
    rule = stored(condition="payload.amount > 1000")
    event = {"messageId": "m", "eventType": "order.created", "payload": {"amount": 5, "x": "<b>x</b>"}}
    draft = rule_text(spec_of_rule(rule)).replace("> 1000", "> 1")

    answer = tried(admin_client, rule, event, draft)

    assert answer.context["answer"]["outcome"] == "fired"
    assert "<b>x</b>" not in answer.content.decode()
    assert TriggerRule.objects.get().version == 1
    assert not any(model.objects.exists() for model in (Event, Firing, JobRun))


@pytest.mark.parametrize(
    ("event", "definition", "words"),
    [
        ("{", None, "event: not JSON"),
        ("[]", None, "an event is a JSON object"),
        ({"eventType": "a"}, None, "payload"),
        ({"eventType": "a", "payload": {}}, "a: [", "not YAML"),
        ({"eventType": "a", "payload": {}}, "ruleId: x", "eventType: missing"),
    ],
)
def test_what_cannot_be_tried_is_told_why(admin_client: Client, event: Any, definition: str | None, words: str) -> None:
    answer = tried(admin_client, stored(), event, definition)

    assert answer.status_code == 200
    assert words in " | ".join(answer.context["problems"])


# --- sources


def save_source(client: Client, row: EventSource | None = None, **fields: Any) -> Any:
    given = {"config_text": "provider: github\n", "secrets_text": "", "id_policy": "", "enabled": "on", **fields}
    if row is not None:
        return client.post(path("eventsource", f"{row.pk}/change/"), {"seen_version": row.version, **given})
    return client.post(
        path("eventsource", "add/"), {"tenant": default_tenant().pk, "slug": "hooks", "kind": "webhook", **given}
    )


def webhook() -> EventSource:
    set_secret(tenant=default_tenant(), name="hook-secret", value="S3CRET-VALUE", by="ada")
    spec = SourceSpec("hooks", "webhook", {"provider": "github"}, {"current": "hook-secret"})
    return create_source(tenant=default_tenant(), spec=spec, by="ada")


def test_a_webhook_is_made_and_shows_where_to_send(admin_client: Client) -> None:
    set_secret(tenant=default_tenant(), name="hook-secret", value="S3CRET-VALUE", by="ada")

    answer = save_source(admin_client, secrets_text="current: hook-secret\n")

    assert answer.status_code == 302
    row = EventSource.objects.get()
    assert (row.config, row.secrets, row.updated_by) == (
        {"provider": "github"},
        {"current": "hook-secret"},
        "user:admin",
    )
    page = admin_client.get(path("eventsource", f"{row.pk}/change/")).content.decode()
    assert f"http://testserver/api/v1/hooks/{row.endpoint}" in page
    assert "hook-secret" in page
    assert "S3CRET-VALUE" not in page


def test_everything_that_is_wrong_with_a_source_is_said_where_it_stands(admin_client: Client) -> None:
    answer = save_source(
        admin_client, slug="Not A Name", config_text="provider: gitlub\nunknown: 1\n", secrets_text="current: nowhere\n"
    )

    found = errors_of(answer)
    assert set(found) == {"slug", "config_text", "secrets_text"}
    assert any(words.startswith("config.provider") for words in found["config_text"])
    assert any("unknown" in words for words in found["config_text"])
    assert not EventSource.objects.exists()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"config_text": "a: ["}, "config_text"),
        ({"config_text": "- a\n"}, "config_text"),
        ({"secrets_text": "current: {a: b}\n"}, "secrets_text"),
        ({"slug": ""}, "slug"),
    ],
)
def test_texts_that_are_no_fields_are_refused(admin_client: Client, fields: dict[str, Any], field: str) -> None:
    assert field in errors_of(save_source(admin_client, **fields))


def test_a_source_is_changed_by_one_at_a_time(admin_client: Client) -> None:
    row = webhook()
    fields = {"secrets_text": "current: hook-secret\n", "id_policy": "transport"}

    assert save_source(admin_client, row, config_text="provider: gitea\n", **fields).status_code == 302
    stale = save_source(admin_client, row, config_text="provider: gitlab\n", **fields)

    assert "at version 2, not 1" in " ".join(all_of(errors_of(stale)))
    assert EventSource.objects.get().config["provider"] == "gitea"


def all_of(errors: dict[str, list[str]]) -> list[str]:
    return [words for each in errors.values() for words in each]


def test_sources_are_disabled_enabled_and_deleted_after_a_question(admin_client: Client) -> None:
    row = webhook()

    act(admin_client, "eventsource", "disable", row.pk, reason="moving")
    assert not EventSource.objects.get().enabled
    act(admin_client, "eventsource", "enable", row.pk)
    assert EventSource.objects.get().enabled
    act(admin_client, "eventsource", "delete_chosen", row.pk)

    assert not EventSource.objects.exists()
    assert Transition.objects.filter(subject="event_source", to_state="deleted", by="user:admin").count() == 1


def test_a_page_names_the_fields_of_each_kind(admin_client: Client) -> None:
    page = admin_client.get(path("eventsource", "add/")).content.decode()

    for words in ("Kafka", "RabbitMQ", "provider", "topics", "queues"):
        assert words in page
