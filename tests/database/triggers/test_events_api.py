"""From an event to the rules that saw it and the runs that it started, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models import Job, JobRun, TaskRun, Tenant
from orchestrator.services.runs import launch_runs
from orchestrator.services.tenants import allow_networks
from orchestrator.states import RunState
from tests.support.api import Api, problems
from tests.support.contract_events import EVENT, contract_rules
from tests.support.http_server import serve
from tests.support.records import default_tenant, new_job, token_text
from tests.support.simulation import WORKER
from triggers import rules_cache
from workers.runtime.attempt import run_attempt

pytestmark = pytest.mark.django_db
RULES = "/api/v1/task-trigger-rules"
EVENTS = "/api/v1/events"


@pytest.fixture
def api(broker: Any) -> Api:
    return Api(token_text("admin", name="ada"))


def event(number: int = 1, **fields: Any) -> dict[str, Any]:
    payload = {"orderId": f"order-{number}", "amount": 1999.99, **fields.pop("payload", {})}
    return {**EVENT, "messageId": f"msg-{number}", "payload": payload, **fields}


def send(api: Api, body: Any) -> int:
    answered = api.send(EVENTS, body)
    assert answered.status_code == 202, answered.json()
    return answered.json()["eventId"]


def test_an_event_leads_to_its_firings_and_runs_and_a_run_back_to_its_event(api: Api):
    for rule in contract_rules():
        assert api.send(RULES, rule).status_code == 201

    event_id = send(api, event())

    found = api.get(f"{EVENTS}/{event_id}").json()
    assert found["envelope"]["messageId"] == "msg-1"
    assert (found["state"], found["channel"]) == ("matched", "api")
    (firing,) = found["firings"]
    assert (firing["rule"], firing["rule_version"], firing["outcome"]) == ("order-created-trigger", 1, "fired")
    (run,) = found["runs"]
    assert (run["id"], run["job"]) == (firing["run_id"], "rule-order-created-trigger")
    shown = api.get(f"/api/v1/runs/{run['id']}").json()
    assert shown["event_id"] == event_id
    assert [each["id"] for each in api.get("/api/v1/runs?trigger=event").json()["items"]] == [run["id"]]
    assert (shown["trigger"]["rule"], shown["trigger"]["event_id"]) == ("order-created-trigger", event_id)
    assert shown["priority"] == "P1"
    (back,) = api.get(f"/api/v1/firings?run={run['id']}").json()["items"]
    assert (back["event_id"], back["rule"]) == (event_id, "order-created-trigger")
    assert JobRun.objects.get().event["payload"]["orderId"] == "order-1"


def test_a_condition_that_is_false_is_a_stored_reason_too(api: Api):
    api.send(RULES, contract_rules()[0])

    event_id = send(api, event(payload={"amount": 999.99}))

    found = api.get(f"{EVENTS}/{event_id}").json()
    assert (found["state"], found["firings"], found["runs"]) == ("no_match", [], [])
    assert [(each["rule"], each["rule_version"]) for each in found["not_fired"]] == [("order-created-trigger", 1)]


def test_a_condition_without_a_value_is_an_error_and_never_false(api: Api):
    api.send(RULES, contract_rules()[0])
    body = event()
    del body["payload"]["amount"]

    event_id = send(api, body)

    (firing,) = api.get(f"{EVENTS}/{event_id}").json()["firings"]
    assert (firing["outcome"], firing["run_id"]) == ("error", None)
    assert firing["reason"].startswith("condition_error")
    assert [each["id"] for each in api.get("/api/v1/firings?outcome=error").json()["items"]] == [firing["id"]]


def test_events_are_found_by_what_they_say(api: Api):
    for number in range(1, 4):
        send(api, event(number, source=f"shop-{number}"))
    other = send(api, event(4, eventType="payment.completed", metadata={"traceId": "trace-4"}))

    def ids(query: str) -> list[str]:
        return [each["envelope"]["messageId"] for each in api.get(f"{EVENTS}?{query}").json()["items"]]

    assert ids("") == ["msg-4", "msg-3", "msg-2", "msg-1"]
    assert ids("type=payment.completed") == ["msg-4"]
    assert ids("type=order.*") == ["msg-3", "msg-2", "msg-1"]
    assert ids("source=shop-2") == ["msg-2"]
    assert ids("q=order-3") == ["msg-3"]
    assert ids("q=msg-1") == ["msg-1"]
    assert ids("q=trace-4") == ["msg-4"]
    assert ids("state=matched") == []
    assert ids("from=2000-01-01T00:00:00Z&to=2000-01-02T00:00:00Z") == []
    first = api.get(f"{EVENTS}?limit=3").json()
    assert [each["id"] for each in api.get(f"{EVENTS}?limit=3&cursor={first['next']}").json()["items"]] == [other - 3]
    assert set(problems(api.get(f"{EVENTS}?state=lost&from=yesterday"))) == {"state", "from"}


def test_a_tenant_sees_and_starts_nothing_of_anothers(api: Api):
    api.send(RULES, contract_rules()[0])
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))

    theirs = send(stranger, event())

    assert stranger.get(f"{EVENTS}/{theirs}").json()["firings"] == []
    assert api.get(f"{EVENTS}/{theirs}").status_code == 404
    assert not JobRun.objects.exists()


def test_a_rule_that_was_changed_disabled_or_deleted_decides_no_longer(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules_cache.shared, "_looks_every", 60.0)
    rule = contract_rules()[0]
    api.send(RULES, rule)
    rules_seen()
    first = send(api, event(1))
    api.put(
        f"{RULES}/{rule['ruleId']}", {**rule, "condition": "payload.amount > 5000"}, content_type="application/json"
    )
    rules_seen()
    second = send(api, event(2))
    api.put(f"{RULES}/{rule['ruleId']}", rule, content_type="application/json")
    api.send(f"{RULES}/{rule['ruleId']}/disable")
    rules_seen()
    third = send(api, event(3))
    api.send(f"{RULES}/{rule['ruleId']}/enable")
    rules_seen()
    fourth = send(api, event(4))
    api.delete(f"{RULES}/{rule['ruleId']}")
    # Held for a moment longer by a process that has not looked: the transaction finds that it is gone.
    fifth = send(api, event(5))
    rules_seen()
    sixth = send(api, event(6))

    def outcome(event_id: int) -> list[tuple[int, str]]:
        found = api.get(f"{EVENTS}/{event_id}").json()
        fired = [(each["rule_version"], each["outcome"]) for each in found["firings"]]
        return fired or [(each["rule_version"], "not_fired") for each in found["not_fired"]]

    assert [outcome(each) for each in (first, second, third, fourth, fifth, sixth)] == [
        [(1, "fired")], [(2, "not_fired")], [], [(5, "fired")], [(5, "error")], [],
    ]  # fmt: skip
    assert "rule_gone" in api.get(f"{EVENTS}/{fifth}").json()["firings"][0]["reason"]


def rules_seen() -> None:
    """As if a second had passed."""
    rules_cache.shared.forget()


def test_a_job_that_was_archived_in_between_suppresses_the_firing(api: Api):
    new_job("nightly-etl")
    api.send(RULES, {"ruleId": "sync", "eventType": "order.created", "taskName": "nightly-etl"})
    api.send("/api/v1/jobs/nightly-etl/archive")

    event_id = send(api, event())

    (firing,) = api.get(f"{EVENTS}/{event_id}").json()["firings"]
    assert (firing["outcome"], firing["reason"].split(":")[0]) == ("suppressed", "job_archived")
    # The API says so to whoever saves such a rule.
    again = api.put(
        f"{RULES}/sync",
        {"ruleId": "sync", "eventType": "order.#", "taskName": "nightly-etl"},
        content_type="application/json",
    )
    assert "archived" in again.json()["warnings"][0]


@pytest.mark.django_db(transaction=True)
def test_both_rules_of_the_contract_run_to_their_end_the_second_once_its_host_is_allowed(api: Api, tmp_path: Path):
    script = tmp_path / "process-high-value-order.sh"
    script.write_text('#!/bin/sh\necho "order $PARAM_ORDERID" > "$(dirname "$0")/done"\n')
    script.chmod(0o755)
    shell, http = contract_rules()
    shell["parameters"] |= {"script": str(script), "orderId": "${payload.orderId}"}
    with serve() as server:
        server.answers["/api/update"] = lambda request: request.reply(200, {})
        http["parameters"] |= {"url": server.url("/api/update"), "status": "${payload.status}"}
        for rule in (shell, http):
            assert api.send(RULES, rule).status_code == 201
        paid = {"eventType": "payment.completed", "payload": {"status": "SUCCESS"}}

        ends = [ended(api, send(api, event(1))), ended(api, send(api, event(2, **paid)))]
        allow_networks(default_tenant(), networks=["127.0.0.0/8"], by="ada")
        ends.append(ended(api, send(api, event(3, **paid))))

        assert [end[0] for end in ends] == ["succeeded", "failed", "succeeded"]
        assert "not in the tenant's allowed networks" in ends[1][1]
        assert (tmp_path / "done").read_text() == "order order-1\n"
        (request,) = server.seen
        assert (request.method, json.loads(request.body)) == ("POST", {"status": "SUCCESS"})


def ended(api: Api, event_id: int) -> tuple[str, str]:
    """Launch and execute the one run of an event; how its task ended, and why."""
    (run,) = api.get(f"{EVENTS}/{event_id}").json()["runs"]
    launch_runs([run["id"]])
    task = TaskRun.objects.get(run_id=run["id"])
    run_attempt(task.pk, worker=WORKER)
    task.refresh_from_db()
    return task.state, task.reason


def test_the_second_rule_of_the_contract_calls_its_host(api: Api):
    rule = contract_rules()[1]
    api.send(RULES, rule)

    event_id = send(
        api, event(2, eventType="payment.completed", priority="", payload={"status": "SUCCESS", "amount": 1})
    )

    (run,) = api.get(f"{EVENTS}/{event_id}").json()["runs"]
    assert run["job"] == "rule-payment-completed-trigger"
    task = Job.objects.get(name=run["job"]).latest_version.spec["tasks"][0]
    assert (task["type"], task["config"]["url"]) == ("http", "http://inventory-service/api/update")
    launch_runs([run["id"]])
    assert JobRun.objects.get().state == RunState.RUNNING
