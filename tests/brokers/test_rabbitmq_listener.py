"""The RabbitMQ listener as a process, on a real broker and a real database."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models import JobRun, Tenant
from tests.support.factories import job_of
from tests.support.listeners import listener
from tests.support.rabbitmq import declare, event, length, publish
from tests.support.waiting import eventually
from triggers.models import Event, EventSource, UncleanExit
from triggers.services.rules import create_rule, spec_of
from triggers.services.sources import SourceSpec, create_source

pytestmark = [
    pytest.mark.kill,
    pytest.mark.postgresql,
    pytest.mark.django_db(transaction=True),
]
REPEATS = range(20 if os.environ.get("SOAK") else 1)


@pytest.fixture
def queue(rabbitmq_url: str) -> str:
    """A queue of the test's own, with the arguments that a source's queue gets."""
    return declare(rabbitmq_url, f"orders.{uuid.uuid4().hex[:8]}", delivery_limit=1000)


def source_of(queue: str, slug: str = "orders", **config: Any) -> EventSource:
    tenant = Tenant.objects.get(slug="default")
    spec = SourceSpec(slug, "rabbitmq", {"queues": [queue], **config})
    return create_source(tenant=tenant, spec=spec, by="ada")


def rule_of(condition: str = "", **more: Any) -> None:
    job = job_of("work")
    form = {
        "ruleId": f"rule-{uuid.uuid4().hex[:8]}",
        "eventType": "order.created",
        "taskName": job.name,
        "condition": condition,
        **more,
    }
    create_rule(tenant=Tenant.objects.get(slug="default"), spec=spec_of(form), by="ada")


def test_a_message_becomes_an_event_a_run_and_is_acknowledged(rabbitmq_url: str, queue: str, tmp_path: Path) -> None:
    source_of(queue)
    rule_of("payload.orderId == '1'")
    publish(rabbitmq_url, queue, [event(1), event(2)], type="t", app_id="shop", headers={"X-Tenant": "a", "n": 7})

    with listener("orders", log=tmp_path / "log"):
        eventually(lambda: Event.objects.count() == 2, within=30)
        eventually(lambda: JobRun.objects.count() == 1, within=10)

    first = Event.objects.get(message_id="msg-1")
    assert first.channel == f"rabbitmq:{queue}"
    assert first.part == queue
    assert first.headers["x-tenant"] == "a"
    assert first.headers["n"] == "7"
    assert first.headers["amqp-app-id"] == "shop"
    assert JobRun.objects.get().state == "running"
    assert length(rabbitmq_url, queue) == 0
    assert not UncleanExit.objects.exists()
