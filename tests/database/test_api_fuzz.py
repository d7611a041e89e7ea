"""Every endpoint of the document called with generated requests, on the server as it is deployed: no 5xx, and every
answer is one that the document promises."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.conf import options
from orchestrator.dag.templates import TemplateSpec
from orchestrator.models import ApiToken
from orchestrator.services.locks import set_lock
from orchestrator.services.templates import set_template
from orchestrator.states import RunState, TaskState
from orchestrator.store import log_key, open_store
from tests.support.contract_events import EVENT, contract_rules
from tests.support.records import default_tenant, new_attempt, new_job, new_run, new_task_run, new_token, token_text
from tests.support.web import server
from triggers.models import DeadLetter, Event, Firing, Replay
from triggers.services import rules, sources

__all__ = ["server"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

#: Of the whole test; each endpoint gets its share.
SECONDS = 70.0
EXAMPLES = 25
#: Calls of each endpoint, however slow the machine is.
LEAST = 4
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
RULE = contract_rules()[0]
#: Bodies that mean something; three in four calls send one of these, some of them with generated fields over it.
BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/task-trigger-rules": {"ruleId": "another", "eventType": "order.#", "taskName": "nightly-etl"},
    "/api/v1/task-trigger-rules/{rule_id}": RULE,
    "/api/v1/task-trigger-rules/{rule_id}/rollback": {"version": 1},
    "/api/v1/task-trigger-rules/test": {"rule": RULE, "eventMessage": EVENT},
    "/api/v1/events": {"eventType": "order.created", "payload": {"amount": 1}},
    "/api/v1/event-sources": {"slug": "queue", "type": "rabbitmq", "config": {"host": "127.0.0.1", "queues": ["fuzz"]}},
    "/api/v1/event-sources/{slug}": {
        "type": "kafka", "config": {"bootstrap": "127.0.0.1:9", "topics": ["business-events"]},
    },
    "/api/v1/replays": {"filter": {"type": "order.created"}},
}  # fmt: skip
#: What the fuzzer must not do: take away what the next call needs.
LAST = ("delete", "post /api/v1/jobs/{job}/archive")


def known_events() -> dict[str, list[Any]]:
    tenant, now = default_tenant(), timezone.now()
    rule = rules.create_rule(tenant=tenant, spec=rules.spec_of(RULE), by="ada")
    sources.create_source(
        tenant=tenant,
        spec=sources.SourceSpec("business", "kafka", BODIES["/api/v1/event-sources/{slug}"]["config"]),
        by="ada",
    )
    event = Event.objects.create(
        tenant=tenant, received_at=now, source="shop", message_id="msg-1", event_type="order.created", event_time=now,
        channel="api", payload={"amount": 1}, state="matched", not_fired=[rule.versions.get().pk],
    )  # fmt: skip
    firing = Firing.objects.create(
        tenant=tenant, rule_id=rule.pk, rule_version=1, event_id=event.pk, outcome="fired", created_at=now
    )
    letter = DeadLetter.objects.create(
        tenant=tenant, identity=uuid.uuid4(), channel="api", reason="malformed", raw=b"{", first_seen=now, last_seen=now
    )
    replay = Replay.objects.create(
        tenant=tenant, by="ada", idempotency_key="k", fingerprint="", selection={"events": [event.pk]}, created_at=now,
        state="done",
    )  # fmt: skip
    return {
        "rule_id": [RULE["ruleId"]],
        "slug": ["business"],
        "event_id": [str(event.pk)],
        "firing_id": [str(firing.pk)],
        "letter_id": [str(letter.pk)],
        "replay_id": [str(replay.pk)],
    }


def known_ids() -> dict[str, list[Any]]:
    """Records of each kind, so that not every generated path is an unknown one."""
    tenant = default_tenant()
    job = new_job("nightly-etl", tasks=("extract", "load"))
    ended, running = new_run(job, RunState.SUCCEEDED), new_run(job)
    rows = [new_task_run(ended, 0, TaskState.SUCCEEDED, result={"n": 3}, attempt_count=1)]
    rows += [new_task_run(running, 0, TaskState.FAILED), new_task_run(running, 1, TaskState.WAITING)]
    attempt = new_attempt(rows[0])
    open_store(options().store_location).append(log_key(ended.pk, attempt.pk), "eins\nzwö\n".encode())
    set_lock(tenant=tenant, name="primary_db", capacity=2, by="ada")
    set_template(tenant=tenant, spec=TemplateSpec("backup", command="true"), by="ada")
    return {
        "job": ["nightly-etl", str(job.pk)],
        "number": ["1"],
        "run_id": [str(ended.pk), str(running.pk)],
        "task_run_id": [str(row.pk) for row in rows],
        "attempt_id": [str(attempt.pk)],
        "token_id": [str(new_token("read", name="victim")[0].pk)],
        "/locks/": ["primary_db"],
        "/secrets/": ["api-key"],
        "/connections/": ["warehouse"],
        "/templates/": ["backup"],
        "/tasks/": ["single", "nightly-etl"],
        **known_events(),
    }


def fill(case: schemathesis.Case, known: dict[str, list[Any]], data: st.DataObject) -> None:
    """Make three calls in four about something that there is, the first of them too."""
    kind = next((known[part] for part in known if part.startswith("/") and part in case.operation.path), None)
    for name in case.path_parameters or {}:
        there_are = known.get(name) if kind is None or name not in ("job", "name") else kind
        if there_are and data.draw(st.integers(0, 3)) < 3:
            case.path_parameters[name] = data.draw(st.sampled_from(there_are))
    if case.headers and "If-Match" in case.headers and data.draw(st.integers(0, 3)) < 3:
        del case.headers["If-Match"]
    if isinstance(case.body, dict) and data.draw(st.integers(0, 3)) < 3:
        if "jobName" in case.body:
            case.body.update(jobName="nightly-etl", parameters={})
        elif case.operation.path in ("/api/v1/jobs", "/api/v1/jobs/{job}", "/api/v1/jobs/validation"):
            case.body = {"kind": "Job", "name": "nightly-etl", "tasks": [{"name": "extract", "type": "noop"}]}
        elif case.operation.path in ("/api/v1/templates", "/api/v1/templates/{name}"):
            case.body = {"template_name": "backup", "task_definition": {"command": "true"}}
        elif case.operation.path in BODIES:
            case.body = {**BODIES[case.operation.path], **data.draw(st.sampled_from([{}, case.body]))}


def requests_to(operation: schemathesis.APIOperation) -> st.SearchStrategy[schemathesis.Case]:
    """Requests as the document has them and, where there is something to get wrong, others."""
    as_it_should_be = operation.as_strategy()
    if not operation.body and not operation.query:
        return as_it_should_be
    return as_it_should_be | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)


def call(
    operation: schemathesis.APIOperation,
    *,
    url: str,
    headers: dict[str, str],
    known: dict[str, list[Any]],
    own: int,
    seconds: float,
    seen: Counter[int],
) -> str:
    """Call an endpoint with generated requests for so many seconds; return what is wrong, if anything."""
    ends = time.monotonic() + seconds

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=requests_to(operation), data=st.data())
    def once(case: schemathesis.Case, data: st.DataObject) -> None:
        fill(case, known, data)
        if "token_id" in (case.path_parameters or {}) and int(case.path_parameters["token_id"]) == own:
            return
        if time.monotonic() > ends and seen.total() >= LEAST:
            return  # only now: what is drawn must not depend on the clock
        if case.query and "wait" in case.query:
            case.query["wait"] = 0.05
        response = case.call(base_url=url, headers=headers, timeout=30)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    try:
        once()
    except (Failure, FailureGroup) as failure:
        parts = "\n".join(map(str, getattr(failure, "exceptions", ())))
        return f"{operation.method.upper()} {operation.path}: {failure}\n{parts}"
    return ""


def test_no_generated_request_breaks_the_server_or_the_document(server, admin_client: Client):
    url, _ = server
    known = known_ids()
    headers = {"Authorization": f"Bearer {token_text('admin', name='fuzzer')}"}
    own = ApiToken.objects.get(name="fuzzer").pk
    for path, body in (
        ("secrets/api-key", {"value": "hunter2"}),
        ("connections/warehouse", {"url": "postgresql://ada:hunter2@db.example/x"}),
    ):
        # By the API, since the server has a key of its own.
        assert httpx.put(f"{url}/api/v1/{path}", json=body, headers=headers).status_code == 201
    single = {"name": "single", "command": "true"}
    assert httpx.post(f"{url}/api/v1/tasks", json=single, headers=headers).status_code == 201
    document = yaml.safe_load(admin_client.get("/api/v1/schema").content)
    connection.close()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    operations.sort(key=lambda operation: f"{operation.method} {operation.path}".lower().startswith(LAST))
    until = time.monotonic() + SECONDS
    failures: list[str] = []
    statuses: dict[str, Counter[int]] = {}

    for index, operation in enumerate(operations):
        share = (until - time.monotonic()) / (len(operations) - index)
        seen = statuses.setdefault(f"{operation.method.upper()} {operation.path}", Counter())
        if problem := call(operation, url=url, headers=headers, known=known, own=own, seconds=share, seen=seen):
            failures.append(problem)

    assert not failures, "\n\n".join(failures)
    assert [label for label, seen in statuses.items() if not seen] == []
    # Unless most endpoints were met in a good state, the calls proved little.
    met = [label for label, seen in statuses.items() if any(status < 300 for status in seen)]
    assert len(met) > 0.8 * len(operations), sorted(set(statuses) - set(met))
