"""What the ledger adds to an http task: whom its tenant may reach, and when the next attempt is due."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from orchestrator.dag.spec import JobSpec, RetrySpec, TaskSpec
from orchestrator.errors import InvalidRequest
from orchestrator.models import Attempt, Tenant, Transition
from orchestrator.services.tenants import allow_networks, checked_networks
from tests.support.factories import default_tenant, job_of, run_of, task_of
from tests.support.http_server import Server, serve
from tests.support.simulation import WORKER, Broker
from workers.runtime.attempt import run_attempt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def call(url: str, **fields: Any) -> JobSpec:
    retry = fields.pop("retry", RetrySpec())
    return JobSpec(
        name="caller", tasks=(TaskSpec(name="call", type="http", config={"url": url, **fields}, retry=retry),)
    )


def test_a_tenant_reaches_private_addresses_once_it_is_allowed_to(server: Server, broker: Broker) -> None:
    server.answers["/ok"] = lambda request: request.reply(200, {"n": 4})
    job = job_of(call(server.url("/ok"), result="body"))
    before, after = run_of(job, key="before"), run_of(job, key="after")

    run_attempt(task_of(before, "call").pk, worker=WORKER)
    allow_networks(default_tenant(), networks=["127.0.0.0/8"], by="ada")
    run_attempt(task_of(after, "call").pk, worker=WORKER)

    refused, done = task_of(before, "call"), task_of(after, "call")
    assert refused.state == "failed"
    assert "127.0.0.1 is a loopback address that is not in the tenant's allowed networks" in refused.reason
    assert (done.state, done.result) == ("succeeded", {"n": 4})
    assert len(server.seen) == 1


def test_a_permission_that_was_taken_back_holds_for_the_next_attempt_of_a_run(server: Server, broker: Broker) -> None:
    server.answers["/x"] = lambda request: request.reply(503)
    tenant = default_tenant()
    allow_networks(tenant, networks=["127.0.0.0/8"], by="ada")
    run = run_of(job_of(call(server.url("/x"), retry=RetrySpec(max_attempts=3, backoff="none"))))

    run_attempt(task_of(run, "call").pk, worker=WORKER)
    assert task_of(run, "call").state == "retry_waiting"
    allow_networks(tenant, networks=[], by="ada")
    run_attempt(task_of(run, "call").pk, worker=WORKER)

    assert task_of(run, "call").state == "failed"
    assert len(server.seen) == 1


def test_the_next_attempt_is_due_when_the_server_asked_for_it(server: Server, broker: Broker) -> None:
    server.answers["/busy"] = lambda request: request.reply(429, retry_after="300")
    server.answers["/very-busy"] = lambda request: request.reply(503, retry_after="999999")
    allow_networks(default_tenant(), networks=["127.0.0.0/8"], by="ada")
    retry = RetrySpec(max_attempts=2, delay=1)

    for path, seconds in (("/busy", 300), ("/very-busy", 3600)):
        run = run_of(job_of(call(server.url(path), retry=retry)), key=path)
        run_attempt(task_of(run, "call").pk, worker=WORKER)

        task_run = task_of(run, "call")
        attempt = Attempt.objects.get(task_run=task_run)
        assert (task_run.state, attempt.state, attempt.failure_kind) == ("retry_waiting", "failed", "retryable")
        assert task_run.due_at is not None
        assert attempt.ended_at is not None
        assert (task_run.due_at - attempt.ended_at).total_seconds() == pytest.approx(seconds, abs=1)
        assert "asks to wait" in task_run.reason


# The tenant's networks.


def test_networks_are_kept_in_their_canonical_form_each_once() -> None:
    assert checked_networks([" 10.1.0.0/16 ", "10.1.0.0/255.255.0.0", "192.168.1.5", "FD12:0::/32"]) == [
        "10.1.0.0/16",
        "192.168.1.5/32",
        "fd12::/32",
    ]


def test_what_is_no_network_is_named_and_nothing_is_changed() -> None:
    tenant = default_tenant()
    allow_networks(tenant, networks=["10.0.0.0/8"], by="ada")

    with pytest.raises(InvalidRequest) as refused:
        allow_networks(tenant, networks=["10.1.0.0/16", "10.1.2.3/16", "intranet", ""], by="ada")

    assert [detail.path for detail in refused.value.details] == [f"allowed_networks[{n}]" for n in (1, 2, 3)]
    assert str(refused.value).startswith("No networks: '10.1.2.3/16', 'intranet', '';")
    assert "without bits behind its prefix" in refused.value.details[0].expected
    assert Tenant.objects.get(pk=tenant.pk).allowed_networks == ["10.0.0.0/8"]


def test_a_change_is_recorded_with_who_and_why_and_a_repetition_is_none() -> None:
    tenant = default_tenant()

    allow_networks(tenant, networks=["10.1.0.0/16"], by="ada", reason="the warehouse")
    allow_networks(tenant, networks=["10.1.0.0/16"], by="ada")
    allow_networks(tenant, networks=[], by="bob")

    facts = Transition.objects.filter(subject="tenant").order_by("pk").values_list("by", "reason")
    assert list(facts) == [
        ("ada", "the warehouse"),
        ("bob", "private networks of default: none, before 10.1.0.0/16"),
    ]


def test_a_command_shows_and_sets_the_networks(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("allow_networks", "10.1.0.0/16", "192.168.1.5")
    assert capsys.readouterr().out.splitlines() == ["10.1.0.0/16", "192.168.1.5/32"]
    call_command("allow_networks", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"tenant": "default", "allowed_networks": ["10.1.0.0/16", "192.168.1.5/32"]}
    call_command("allow_networks", "--none")
    assert capsys.readouterr().out == ""
    assert default_tenant().allowed_networks == []

    with pytest.raises(CommandError, match="No networks: 'intranet'; expected a network such as"):
        call_command("allow_networks", "intranet")
    with pytest.raises(CommandError, match="not both"):
        call_command("allow_networks", "10.0.0.0/8", "--none")


def test_the_admin_shows_networks_by_line_and_refuses_what_is_none(admin_client: Client) -> None:
    tenant = default_tenant()
    page = f"/admin/orchestrator/tenant/{tenant.pk}/change/"
    form = {"slug": tenant.slug, "name": "Default", "timezone": "UTC", "parameters": "{}"}

    wrong = admin_client.post(page, {**form, "allowed_networks": "10.1.0.0/16\n10.1.2.3/16"})
    tenant.refresh_from_db()
    assert tenant.allowed_networks == []
    assert b"10.1.2.3/16: expected a network such as 10.1.0.0/16" in wrong.content

    right = admin_client.post(page, {**form, "allowed_networks": "10.1.0.0/16\r\nfd12::/32\r\n"})
    tenant.refresh_from_db()
    assert right.status_code == 302
    assert tenant.allowed_networks == ["10.1.0.0/16", "fd12::/32"]
    assert Transition.objects.get().by == "user:admin"
    assert b"10.1.0.0/16\nfd12::/32" in admin_client.get(page).content
    assert b"10.1.0.0/16, fd12::/32" in admin_client.get("/admin/orchestrator/tenant/").content
