from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.utils import timezone

from orchestrator.conf import options
from orchestrator.models import Lease
from orchestrator.registry import Finding
from orchestrator.services.secrets import set_secret
from tests.support.records import default_tenant
from triggers.diagnosis import findings
from triggers.listeners.health import Health
from triggers.models import EventSource, Firing, Listener

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"UPBEAT_ENCRYPTION_KEYS": (Fernet.generate_key().decode(),), "UPBEAT_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    monkeypatch.setattr(options(), "_values", {**options()._values, **values})


def source(kind: str = "webhook", slug: str = "orders", **fields: Any) -> EventSource:
    config = {"kafka": {"topics": ["t"]}, "rabbitmq": {"queues": ["q"], "host": "127.0.0.1", "port": 1}}.get(kind, {})
    fields = {"config": config, "id_policy": "transport"} | fields
    return EventSource.objects.create(tenant=default_tenant(), kind=kind, slug=slug, **fields)


def found(name: str) -> Finding:
    return next(one for one in findings() if one.name == name)


def test_nothing_is_said_where_nobody_uses_events() -> None:
    assert findings() == []


def test_a_webhook_without_a_secret_is_wrong() -> None:
    source()

    one = found("secrets of event sources")

    assert (one.ok, one.detail) == (False, "the webhook orders has none and refuses every call")


def test_a_secret_that_is_not_stored_is_named() -> None:
    source(secrets={"current": "hook-secret"})
    assert found("secrets of event sources").detail == "orders lacks hook-secret"

    set_secret(tenant=default_tenant(), name="hook-secret", value="s", by="ada")
    assert found("secrets of event sources").ok


def test_a_source_that_nobody_listens_to_is_wrong_and_so_is_one_that_fails() -> None:
    kafka = source("kafka")
    assert found("listeners").detail == "nobody listens to orders"

    health = Health("kafka", kafka, instance="orders@here")
    health.beat({"t/0": 3})
    assert (found("listeners").ok, found("listeners").detail) == (True, "1 live listener")

    health.beat({"t/0": 3}, "failing", "no such topic")
    assert found("listeners").detail == "orders@here is failing: no such topic"


def test_a_listener_that_stands_still_counts_as_gone_and_back_pressure_is_no_fault() -> None:
    Health("kafka", source("kafka"), instance="orders@here").beat({}, "paused", "too many runs wait")
    assert found("listeners").ok
    assert "orders@here is paused: too many runs wait" in found("listeners").detail

    Listener.objects.update(last_loop_at=timezone.now() - timedelta(seconds=70))
    assert found("listeners").detail == "nobody listens to orders"


def test_brokers_that_are_away_are_told_within_seconds() -> None:
    source("kafka")
    source("kafka", "more")
    source("rabbitmq", "queue")

    began = time.monotonic()
    kafka, rabbitmq = found("Kafka at 127.0.0.1:1"), found("RabbitMQ at 127.0.0.1:1 vhost /")

    assert time.monotonic() - began < 15
    assert not kafka.ok
    assert kafka.detail.startswith("of more, orders: ")
    assert not rabbitmq.ok


def test_held_firings_need_somebody_who_releases_them() -> None:
    Firing.objects.create(
        tenant=default_tenant(), rule_id=1, rule_version=1, event_id=1, outcome="held", created_at=timezone.now()
    )
    assert found("roles of events").detail == "nobody leads timers"

    Lease.objects.create(name="triggers.timers", holder="h", expires_at=timezone.now() + timedelta(seconds=3))
    assert found("roles of events").ok


class TestHealth:
    """What a listener says of itself."""

    def test_an_end_in_order_leaves_no_row(self) -> None:
        health = Health("kafka", source("kafka"), instance="orders@here")
        health.beat()
        health.close()
        health.close()

        assert not Listener.objects.exists()

    def test_the_same_again_is_written_now_and_then_and_a_change_at_once(self) -> None:
        health = Health("kafka", source("kafka"), instance="orders@here")
        health.beat({"t/0": 1})
        first = Listener.objects.get()

        health.beat({"t/0": 2})
        assert Listener.objects.get().last_loop_at == first.last_loop_at

        health.beat({"t/0": 2}, "degraded", "no such topic")
        now = Listener.objects.get()
        assert (now.state, now.assigned, now.started_at) == ("degraded", {"t/0": 2}, first.started_at)
