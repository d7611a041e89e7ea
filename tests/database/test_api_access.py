"""Every endpoint asks who calls, with what scope and of which tenant; a new one without it fails here."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.api.permissions import HasScope
from orchestrator.api.urls import urlpatterns
from orchestrator.api.views.base import UnknownPath
from orchestrator.dag.spec import JobSpec
from orchestrator.models import AuditRecord, Connection, Job, JobVersion, Lock, Secret, Template, Tenant
from orchestrator.roles import SCOPE_ACTIONS, Action, Scope
from orchestrator.states import TaskState
from tests.support.api import Api
from tests.support.records import (
    default_tenant,
    new_attempt,
    new_job,
    new_run,
    new_task_run,
    new_token,
    new_transition,
    token_text,
)
from triggers.api.urls import urlpatterns as event_patterns
from triggers.models import DeadLetter, Event, EventSource, Firing, Replay, RuleVersion, TriggerRule

pytestmark = pytest.mark.django_db
#: For people too, who sign in to the admin; each has a test of its own.
OF_THE_BROWSER = ("api/v1/schema", "api/v1/docs")
#: Who calls proves it by a signature, which has tests of its own.
SIGNED = ("api/v1/hooks/<hook:endpoint>",)


@dataclass(frozen=True)
class Endpoint:
    method: str
    route: str
    view: Any

    def path(self, **values: object) -> str:
        return "/" + re.sub(r"<\w+:(\w+)>", lambda found: str(values[found[1]]), self.route)

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def endpoints() -> list[Endpoint]:
    found = []
    for pattern in [*urlpatterns, *event_patterns]:
        view, route = pattern.callback.cls, str(pattern.pattern)
        if view is UnknownPath or route in (*OF_THE_BROWSER, *SIGNED):
            continue
        found += [
            Endpoint(method, route, view)
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
            if hasattr(view, method.lower())
        ]
    return found


ENDPOINTS = endpoints()
#: Calls that change nothing and are no reading in the words of HTTP.
ASKS_BY_POST = ("POST api/v1/jobs/validation", "POST api/v1/task-trigger-rules/test")
#: The last words of paths of commands.
STEERS = (
    r"/(cancellations?|pause|resume|retries|skip|mark|stop|releases|enable|disable|replays|discard|results?"
    r"|switch|archive|restore)$"
)
NUMBERS = (
    "record_id", "run_id", "task_run_id", "attempt_id", "token_id", "number", "event_id", "firing_id", "letter_id", "replay_id",
)  # fmt: skip
UNKNOWN = dict.fromkeys(NUMBERS, 10**17) | {
    "job": "no-such-job",
    "name": "no-such-name",
    "rule_id": "no-such-rule",
    "slug": "no-such-source",
}


def call(api: Api, endpoint: Endpoint, **values: object) -> Any:
    return api.generic(endpoint.method, endpoint.path(**(UNKNOWN | values)), b"{}", content_type="application/json")


def test_the_table_has_the_endpoints():
    assert len(ENDPOINTS) > 90
    assert all(HasScope in endpoint.view.permission_classes for endpoint in ENDPOINTS)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_nobody_is_answered_without_a_token(endpoint: Endpoint):
    answer = call(Api(None), endpoint)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_nobody_is_answered_without_the_scope(endpoint: Endpoint):
    # All that a token may have without being allowed this one thing.
    scopes = [scope.value for scope in Scope if needed_by(endpoint) not in SCOPE_ACTIONS[scope]]
    answer = call(Api(token_text(*scopes)), endpoint)

    assert Scope.ADMIN not in scopes
    assert (answer.status_code, answer.json()["code"]) == (403, "out_of_scope")


def needed_by(endpoint: Endpoint) -> Action:
    default = Action.VIEW if endpoint.method == "GET" else Action.STEER
    view = endpoint.view
    return getattr(view, "actions", {}).get(endpoint.method) or getattr(view, "action", None) or default


def test_each_endpoint_does_what_its_words_say():
    """What a scope opens, by method and path: a new endpoint is added here by whoever decides what it needs."""
    opened = {action: [str(each) for each in ENDPOINTS if needed_by(each) == action] for action in Action}

    assert all(each.startswith("GET ") or each in ASKS_BY_POST for each in opened[Action.VIEW])
    assert sorted(opened[Action.TRIGGER]) == [
        "POST api/v1/events",
        "POST api/v1/jobs/trigger",
        "POST api/v1/tasks/<job:job>/execute",
        "POST v1/jobs/trigger",
    ]
    assert all(each.startswith("GET api/v1/audit-records") for each in opened[Action.AUDIT])
    assert {each.split("/")[2].partition("?")[0] for each in opened[Action.CONFIGURE_SECRETS]} == {
        "secrets",
        "connections",
    }
    assert {each.split("/")[2] for each in opened[Action.MANAGE]} == {"tokens"}
    assert {each.split("/")[2] for each in opened[Action.DEFINE]} == {
        "jobs",
        "tasks",
        "templates",
        "locks",
        "task-trigger-rules",
        "event-sources",
    }
    assert all(re.search(STEERS, each) for each in opened[Action.STEER]), opened[Action.STEER]


@pytest.mark.parametrize(
    "endpoint", [endpoint for endpoint in ENDPOINTS if "<" in endpoint.route and endpoint.method != "PUT"], ids=str
)
def test_what_is_not_there_is_not_found(endpoint: Endpoint):
    answer = call(Api(token_text("admin")), endpoint)

    # A call with a body may be told first what its body lacks.
    assert answer.status_code in ((404,) if endpoint.method in ("GET", "DELETE") else (404, 400))
    assert set(answer.json()) == {"code", "message", "details"}


@pytest.mark.parametrize(
    "endpoint", [endpoint for endpoint in ENDPOINTS if "<" in endpoint.route and endpoint.method != "PUT"], ids=str
)
def test_what_is_another_tenants_is_not_found_either(endpoint: Endpoint):
    tenant = default_tenant()
    run = new_run(new_job("nightly-etl"))
    row = new_task_run(run, state=TaskState.RUNNING)
    Lock.objects.create(tenant=tenant, name="theirs")
    Secret.objects.create(tenant=tenant, name="theirs", ciphertext=b"x")
    Connection.objects.create(tenant=tenant, name="theirs", ciphertext=b"x", shown_url="x")
    Template.objects.create(tenant=tenant, name="theirs", task_definition={"command": "true"})
    events = new_events(1)
    stranger = Api(token_text("admin", tenant=Tenant.objects.create(slug="other")))

    answer = call(
        stranger,
        endpoint,
        **events,
        run_id=run.pk,
        task_run_id=row.pk,
        attempt_id=new_attempt(row).pk,
        token_id=new_token()[0].pk,
        record_id=AuditRecord.objects.latest("pk").pk,
        job="nightly-etl",
        number=1,
        name="theirs",
    )

    assert answer.status_code in ((404,) if endpoint.method in ("GET", "DELETE") else (404, 400))


OF_A_JOB = [endpoint for endpoint in ENDPOINTS if re.search(r":(job|run_id|task_run_id|attempt_id)>", endpoint.route)]


@pytest.mark.parametrize("endpoint", OF_A_JOB, ids=str)
def test_a_token_for_other_jobs_is_out_of_scope(endpoint: Endpoint):
    run = new_run(new_job("nightly-etl"))
    row = new_task_run(run, state=TaskState.RUNNING)
    limited = Api(token_text("admin", jobs=(new_job("mine").name,)))

    answer = call(
        limited,
        endpoint,
        run_id=run.pk,
        task_run_id=row.pk,
        attempt_id=new_attempt(row).pk,
        job="nightly-etl",
        number=1,
    )

    assert (answer.status_code, answer.json()["code"]) in ((403, "out_of_scope"), (400, "invalid_request"))
    assert answer.status_code == 403 or endpoint.method != "GET"


def new_events(rows: int) -> dict[str, object]:
    """So many rules with a version, a source, an event, a firing, a dead letter and a replay each."""
    tenant, now = default_tenant(), timezone.now()
    spec = {"ruleId": "their-rule", "eventType": "order.created", "taskName": "nightly-etl"}
    rule = TriggerRule.objects.create(tenant=tenant, slug="their-rule", spec=spec)
    moments = {"first_seen": now, "last_seen": now}
    for number in range(rows):
        version = RuleVersion.objects.create(rule=rule, number=number + 1, spec=spec)
        source = EventSource.objects.create(tenant=tenant, slug=f"source-{number}", kind="webhook", id_policy="require")
        event = Event.objects.create(
            tenant=tenant, received_at=now, source="shop", message_id=f"msg-{number}", event_type="order.created",
            event_time=now, channel="api", payload={}, state="matched", not_fired=[version.pk],
        )  # fmt: skip
        firing = Firing.objects.create(
            tenant=tenant, rule_id=rule.pk, rule_version=1, event_id=event.pk, outcome="fired", created_at=now
        )
        letter = DeadLetter.objects.create(
            tenant=tenant, event_source=source, identity=uuid.uuid4(), channel="api", reason="malformed", raw=b"{",
            **moments,
        )  # fmt: skip
        replay = Replay.objects.create(
            tenant=tenant, by="token:ada", idempotency_key=str(number), fingerprint="", selection={}, created_at=now,
            state="done",
        )  # fmt: skip
    return {
        "rule_id": rule.slug,
        "slug": source.slug,
        "event_id": event.pk,
        "firing_id": firing.pk,
        "letter_id": letter.pk,
        "replay_id": replay.pk,
    }


def fill(rows: int) -> dict[str, object]:
    """So many rows in every list."""
    tenant = default_tenant()
    job = new_job("nightly-etl", tasks=tuple(f"t{index}" for index in range(rows)))
    for index in range(rows):
        run = new_run(job)
        new_transition(run, "pending", "running")
        new_token(name=f"t{index}")
        name = f"n-{index}"
        Lock.objects.create(tenant=tenant, name=name)
        Secret.objects.create(tenant=tenant, name=name, ciphertext=b"x")
        Connection.objects.create(tenant=tenant, name=name, ciphertext=b"x", shown_url="x")
        Template.objects.create(tenant=tenant, name=name, task_definition={"command": "true"})
        single = Job.objects.get(pk=new_job(f"single-{index}").pk)
        spec = JobSpec.from_canonical(single.latest_version.spec).canonical()
        spec["tasks"][0] |= {"type": "shell", "config": {"command": "true"}}
        JobVersion.objects.filter(job=single).update(spec=spec)
        single.latest_version.tasks.update(type="shell")
        if index:
            JobVersion.objects.create(job=job, number=index + 1, content_hash=str(index), spec={}, task_count=1)
    for index in range(rows):
        row = new_task_run(run, index)
        new_transition(run, "ready", "running", subject="task_run", subject_id=row.pk)
    first = row
    for number in range(rows):
        new_attempt(first, number=number + 1)
        new_transition(run, "ready", "running", subject="task_run", subject_id=first.pk)
    return {"run_id": run.pk, "task_run_id": first.pk, "job": "nightly-etl", **new_events(rows)}


#: Statements of each list beside those of the token, whatever its length.
STATEMENTS = {
    "audit-records": 1,
    "connections": 1,
    "dead-letters": 1,
    "event-sources": 1,
    "events": 4,
    "firings": 2,
    "jobs": 1,
    "jobs/<job:job>/versions": 2,
    "locks": 1,
    "replays": 1,
    "runs": 1,
    "runs/<id:run_id>/task-runs": 2,
    "runs/<id:run_id>/transitions": 2,
    "secrets": 1,
    "task-runs/<id:task_run_id>/attempts": 2,
    "task-runs/<id:task_run_id>/transitions": 2,
    "task-trigger-rules/<rule:rule_id>/firings": 3,
    "task-trigger-rules/<rule:rule_id>/versions": 2,
    "tasks": 1,
    "templates": 1,
    "tokens": 1,
}


@pytest.mark.parametrize("rows", [1, 40])
def test_a_list_costs_the_same_statements_however_long_it_is(rows: int):
    known = fill(rows)
    api = Api(token_text("admin", name="reader"))
    api.get("/api/v1/runs")
    token = 1 if connection.vendor == "postgresql" else 2

    counts, lengths = {}, {}
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or not endpoint.path(**(UNKNOWN | known)).startswith("/api/v1/"):
            continue
        route = endpoint.route.removeprefix("api/v1/")
        with CaptureQueriesContext(connection) as captured:
            answer = api.get(endpoint.path(**(UNKNOWN | known)))
        if answer.status_code == 200 and answer["Content-Type"] == "application/json" and "next" in answer.json():
            counts[route] = len(captured) - token
            lengths[route] = len(answer.json()["items"])

    assert counts == STATEMENTS
    assert all(length >= rows for length in lengths.values()), lengths
