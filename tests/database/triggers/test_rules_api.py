"""Rules over the API, as the contract has it: fields, list, versions, preconditions, what a change leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from orchestrator.models import Job, JobRun, Transition
from orchestrator.states import RunState
from tests.support.api import Api, problems
from tests.support.contract_events import contract_rules
from tests.support.records import default_tenant, new_job, new_run, token_text
from triggers.models import Firing, RuleVersion, TriggerRule
from triggers.rules_cache import current_epoch
from triggers.services.rules import quarantine_rule

pytestmark = pytest.mark.django_db
RULES = "/api/v1/task-trigger-rules"
RULE: dict[str, Any] = {
    "ruleId": "order-created-trigger",
    "ruleName": "订单创建触发数据同步",
    "eventType": "order.created",
    "condition": "payload.amount > 1000",
    "taskName": "high-value-order-processing",
    "taskType": "shell",
    "parameters": {"script": "/scripts/process-high-value-order.sh", "timeout": 3600},
    "priority": "HIGH",
    "enabled": True,
    "description": "处理高价值订单的后续流程",
}


@pytest.fixture
def api() -> Api:
    return Api(token_text("admin", name="ada"))


def put(api: Api, rule: dict[str, Any], **headers: str) -> Any:
    return api.put(f"{RULES}/{rule['ruleId']}", rule, content_type="application/json", headers=headers)


def test_a_rule_of_the_contract_is_created_read_and_deleted(api: Api):
    created = api.send(RULES, RULE)

    assert created.status_code == 201, created.json()
    assert created["Location"].endswith(f"{RULES}/order-created-trigger")
    assert created["ETag"] == '"1"'
    answered = created.json()
    assert {key: answered[key] for key in RULE} == RULE
    assert (answered["version"], answered["job"], answered["updatedBy"]) == (
        1,
        "rule-order-created-trigger",
        "token:ada",
    )
    read = api.get(f"{RULES}/order-created-trigger")
    assert read.json() == {key: value for key, value in answered.items() if key != "warnings"}
    assert api.delete(f"{RULES}/order-created-trigger").status_code == 204
    assert api.get(f"{RULES}/order-created-trigger").status_code == 404
    assert api.delete(f"{RULES}/order-created-trigger").status_code == 404


def test_its_task_becomes_a_hidden_job_with_a_version_for_each_change(api: Api):
    api.send(RULES, RULE)

    job = Job.objects.get(name="rule-order-created-trigger")
    assert job.managed_by == "rule:order-created-trigger"
    assert job.description.startswith("high-value-order-processing")
    assert [each["name"] for each in api.get("/api/v1/jobs").json()["items"]] == []

    put(api, {**RULE, "parameters": {"script": "/scripts/other.sh"}})
    put(api, {**RULE, "parameters": {"script": "/scripts/other.sh"}, "condition": ""})

    assert job.versions.count() == 2  # the condition is the rule's, not its task's
    assert TriggerRule.objects.get().version == 3


def test_putting_what_was_read_changes_nothing(api: Api):
    api.send(RULES, RULE)
    epoch = current_epoch()
    read = api.get(f"{RULES}/order-created-trigger").json()

    again = put(api, read)

    assert again.status_code == 200
    assert (again["ETag"], RuleVersion.objects.count(), current_epoch()) == ('"1"', 1, epoch)


def test_a_stale_etag_is_refused_and_one_in_time_is_not(api: Api):
    api.send(RULES, RULE)
    seen = api.get(f"{RULES}/order-created-trigger")["ETag"]
    put(api, {**RULE, "priority": "LOW"})

    stale = put(api, {**RULE, "priority": "MEDIUM"}, **{"If-Match": seen})

    assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    assert problems(stale) == {"If-Match": '"2"'}
    assert TriggerRule.objects.get().spec["priority"] == "LOW"
    assert put(api, {**RULE, "priority": "MEDIUM"}, **{"If-Match": '"2"'}).status_code == 200
    assert put(api, RULE, **{"If-Match": "*"}).status_code == 200
    assert put(api, RULE).status_code == 200
    assert put(api, RULE, **{"If-Match": 'W/"4"'}).status_code == 200
    assert put(api, RULE, **{"If-Match": "4"}).status_code == 400
    assert put(api, RULE, **{"If-Match": '"abc"'}).status_code == 412


@pytest.mark.parametrize("command", ["enable", "disable", "rollback", "delete"])
def test_every_change_checks_the_version_that_was_seen(api: Api, command: str):
    api.send(RULES, RULE)
    put(api, {**RULE, "priority": "LOW"})
    path, headers = f"{RULES}/order-created-trigger", {"If-Match": '"1"'}

    if command == "delete":
        refused = api.delete(path, headers=headers)
    else:
        refused = api.send(f"{path}/{command}", {"version": 1} if command == "rollback" else {}, **headers)

    assert refused.status_code == 412
    assert TriggerRule.objects.get().version == 2


def test_enabling_and_disabling_are_versions_too(api: Api):
    api.send(RULES, RULE)
    path = f"{RULES}/order-created-trigger"

    disabled = api.send(f"{path}/disable", {"reason": "too many"})
    again = api.send(f"{path}/disable")
    enabled = api.send(f"{path}/enable", **{"If-Match": disabled["ETag"]})

    assert (disabled.json()["enabled"], disabled["ETag"], again["ETag"]) == (False, '"2"', '"2"')
    assert (enabled.json()["enabled"], enabled["ETag"]) == (True, '"3"')
    facts = Transition.objects.filter(subject="rule").order_by("pk")
    assert [(each.from_state, each.to_state, each.by) for each in facts] == [
        ("", "enabled", "token:ada"),
        ("enabled", "disabled", "token:ada"),
        ("disabled", "enabled", "token:ada"),
    ]
    assert "too many" in facts[1].reason


def test_the_list_is_a_bare_array_that_says_how_many_there_are(api: Api):
    for number in range(5):
        api.send(RULES, {**RULE, "ruleId": f"rule-{number}", "enabled": number != 3})

    page = api.get(f"{RULES}?page=1&size=2")

    assert [each["ruleId"] for each in page.json()] == ["rule-2", "rule-3"]
    assert page["X-Total-Count"] == "5"
    links = dict(reversed(part.split("; ")) for part in page["Link"].split(", "))
    assert set(links) == {'rel="first"', 'rel="prev"', 'rel="next"', 'rel="last"'}
    assert links['rel="next"'].endswith(f"{RULES}?page=2&size=2>")
    last = api.get(f"{RULES}?page=2&size=2")
    assert ([each["ruleId"] for each in last.json()], 'rel="next"' in last["Link"]) == (["rule-4"], False)
    assert api.get(f"{RULES}?page=9&size=2").json() == []
    assert len(api.get(RULES).json()) == 5
    assert [each["ruleId"] for each in api.get(f"{RULES}?enabled=false").json()] == ["rule-3"]
    assert [each["ruleId"] for each in api.get(f"{RULES}?q=ule-4").json()] == ["rule-4"]


def test_the_page_object_is_there_for_those_who_ask(api: Api):
    api.send(RULES, RULE)

    found = api.get(f"{RULES}?page=0&size=20&view=page").json()

    content = found.pop("content")
    assert found == {"page": 0, "size": 20, "totalElements": 1, "totalPages": 1}
    assert content[0]["ruleId"] == "order-created-trigger"


def test_all_problems_of_a_rule_come_at_once(api: Api):
    refused = api.send(RULES, {**RULE, "condition": "payload.amount >", "priority": "URGENT", "colour": "red"})

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_rule")
    assert set(problems(refused)) == {"condition", "priority", "colour"}
    assert not Job.objects.exists()


def test_what_the_task_type_refuses_is_told_by_the_rules_own_fields(api: Api):
    refused = api.send(RULES, {**RULE, "taskType": "http", "parameters": {"url": "ftp://x", "method": "POST"}})

    assert refused.status_code == 400
    assert set(problems(refused)) == {"parameters.url"}


def test_a_rule_of_an_unknown_job_is_refused(api: Api):
    named = {"ruleId": "sync", "eventType": "order.created", "taskName": "nightly-etl"}

    refused = api.send(RULES, named)

    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_job")
    new_job("nightly-etl")
    created = api.send(RULES, named)
    assert (created.status_code, created.json()["job"], created.json()["taskType"]) == (201, "nightly-etl", None)
    # A hidden job is no one's but its rule's.
    api.send(RULES, RULE)
    hidden = api.send(RULES, {**named, "ruleId": "other", "taskName": "rule-order-created-trigger"})
    assert hidden.status_code == 422


def test_an_id_is_taken_once_and_free_again_when_its_rule_is_deleted(api: Api):
    api.send(RULES, RULE)

    assert api.send(RULES, RULE).json()["code"] == "rule_exists"
    api.delete(f"{RULES}/order-created-trigger")
    assert Job.objects.get().archived_at is not None
    again = api.send(RULES, RULE)

    assert (again.status_code, again["ETag"]) == (201, '"1"')
    assert TriggerRule.objects.count() == 2
    assert Job.objects.get().archived_at is None


def test_the_id_of_a_rule_never_changes_and_test_is_none(api: Api):
    api.send(RULES, RULE)

    moved = api.put(f"{RULES}/order-created-trigger", {**RULE, "ruleId": "other"}, content_type="application/json")

    assert problems(moved) == {"ruleId": "order-created-trigger, the rule of this path"}
    assert "ruleId" in problems(api.send(RULES, {**RULE, "ruleId": "test"}))
    assert put(api, {**RULE, "ruleId": "unknown"}).status_code == 404


def test_a_rule_that_now_names_a_job_gives_up_its_own(api: Api):
    new_job("nightly-etl")
    api.send(RULES, RULE)
    named = {key: value for key, value in RULE.items() if key != "taskType"} | {
        "taskName": "nightly-etl",
        "parameters": {},
    }

    changed = put(api, named)

    assert changed.json()["job"] == "nightly-etl"
    assert Job.objects.get(name="rule-order-created-trigger").archived_at is not None
    back = put(api, RULE)
    assert back.json()["job"] == "rule-order-created-trigger"
    assert Job.objects.get(name="rule-order-created-trigger").archived_at is None


def test_a_rollback_is_a_new_version_and_enables_nothing(api: Api):
    api.send(RULES, RULE)
    put(api, {**RULE, "condition": "payload.amount > 5", "parameters": {"script": "/x.sh"}})
    api.send(f"{RULES}/order-created-trigger/disable")

    back = api.send(f"{RULES}/order-created-trigger/rollback", {"version": 1})

    assert back.status_code == 200, back.json()
    assert (back.json()["condition"], back.json()["version"], back.json()["enabled"]) == (RULE["condition"], 4, False)
    job = Job.objects.get()
    assert job.latest_version.number == 1  # the same content is the same version of the job
    versions = api.get(f"{RULES}/order-created-trigger/versions").json()["items"]
    assert [(each["version"], each["comment"]) for each in versions] == [
        (4, "back to version 1"), (3, "disabled"), (2, ""), (1, ""),
    ]  # fmt: skip
    assert versions[2]["rule"]["condition"] == "payload.amount > 5"
    assert api.send(f"{RULES}/order-created-trigger/rollback", {"version": 9}).json()["code"] == "unknown_version"


def test_deleting_a_rule_ends_what_it_holds_and_what_waits_but_not_what_runs(api: Api):
    job = new_job("nightly-etl")
    api.send(RULES, {"ruleId": "sync", "eventType": "order.created", "taskName": "nightly-etl"})
    rule = TriggerRule.objects.get()
    pending = new_run(job, RunState.PENDING, key=f"rule:{rule.pk}:7:0")
    running = new_run(job, RunState.RUNNING, key=f"rule:{rule.pk}:8:0")
    others = new_run(job, RunState.PENDING, key=f"rule:{rule.pk}1:9:0")
    now = timezone.now()
    common = {"tenant": default_tenant(), "rule_id": rule.pk, "rule_version": 1, "created_at": now}
    held = Firing.objects.create(**common, event_id=10, outcome="held", release_at=now, expires_at=now)
    fired = Firing.objects.create(**common, event_id=7, outcome="fired", job_run_id=pending.pk)

    assert api.delete(f"{RULES}/sync").status_code == 204

    states = {run.pk: (run.state, run.reason) for run in JobRun.objects.all()}
    assert states[pending.pk] == ("cancelled", "rule_deleted")
    assert (states[running.pk][0], states[others.pk][0]) == ("running", "pending")
    held.refresh_from_db()
    fired.refresh_from_db()
    assert (held.outcome, held.reason, held.release_at) == ("suppressed", "rule_deleted", None)
    assert fired.outcome == "fired"
    # Its history stays, under its number and its old name.
    assert len(api.get(f"/api/v1/firings?rule={rule.pk}").json()["items"]) == 2
    assert len(api.get("/api/v1/firings?rule=sync").json()["items"]) == 2


def test_a_rule_that_could_trigger_itself_is_told_so(api: Api):
    echo = {
        "ruleId": "echo", "eventType": "order.#", "taskName": "echo", "taskType": "http",
        "parameters": {"url": "https://upbeat.example/api/v1/events", "method": "POST",
                       "json": {"eventType": "order.echoed", "payload": {}}},
    }  # fmt: skip

    created = api.send(RULES, echo)

    assert created.status_code == 201, created.json()
    assert "could trigger itself" in created.json()["warnings"][0]
    ping = {
        **echo,
        "ruleId": "ping",
        "eventType": "ping",
        "parameters": {**echo["parameters"], "json": {"eventType": "pong"}},
    }
    pong = {
        **echo,
        "ruleId": "pong",
        "eventType": "pong",
        "parameters": {**echo["parameters"], "json": {"eventType": "ping"}},
    }
    assert api.send(RULES, ping).json()["warnings"] == []
    assert "pong → ping → pong" in api.send(RULES, pong).json()["warnings"][0]


def test_a_condition_that_may_be_anything_is_stored_with_a_warning(api: Api):
    created = api.send(RULES, {**RULE, "condition": "payload.urgent"})

    assert created.status_code == 201
    assert "known only when an event comes" in created.json()["warnings"][0]
    assert put(api, RULE).json()["warnings"] == []
    assert "condition" in problems(put(api, {**RULE, "condition": "size(payload)"}))


def test_a_rule_in_quarantine_says_so_and_is_let_out_by_a_person(api: Api):
    rule_id = api.send(RULES, RULE).json()["id"]

    assert quarantine_rule(rule_id, reason="100 evaluations over budget")
    assert not quarantine_rule(rule_id, reason="again")

    shown = api.get(f"{RULES}/order-created-trigger").json()
    assert (shown["enabled"], shown["quarantineReason"]) == (False, "100 evaluations over budget")
    assert shown["quarantinedAt"]
    out = api.send(f"{RULES}/order-created-trigger/enable").json()
    assert (out["enabled"], out["quarantinedAt"], out["version"]) == (True, None, 3)
    facts = Transition.objects.filter(subject="rule").order_by("pk").values_list("to_state", flat=True)
    assert list(facts) == ["enabled", "quarantined", "enabled"]


def test_both_rules_of_the_contract_are_accepted_as_they_are(api: Api):
    for rule in contract_rules():
        created = api.send(RULES, rule)
        assert created.status_code == 201, created.json()
        assert {key: created.json()[key] for key in rule} == rule


def test_only_the_right_scopes_change_rules(api: Api):
    api.send(RULES, RULE)
    reader, operator = Api(token_text("read")), Api(token_text("operate", "read"))

    assert reader.get(RULES).status_code == 200
    assert reader.send(f"{RULES}/order-created-trigger/disable").status_code == 403
    assert operator.send(f"{RULES}/order-created-trigger/disable").status_code == 200
    assert operator.send(RULES, {**RULE, "ruleId": "other"}).status_code == 403
    assert put(operator, RULE).status_code == 403
    limited = Api(token_text("admin", jobs=(new_job("mine").name,)))
    assert limited.get(RULES).status_code == 403
