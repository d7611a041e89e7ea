"""What `/metrics` says of listeners, dead letters, held firings and runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from orchestrator.models import Tenant
from triggers.collectors import GAUGES
from triggers.models import DeadLetter, EventSource, Firing, Listener, TriggerRule

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    return Tenant.objects.get(slug="default")


@pytest.fixture
def source(tenant: Tenant) -> EventSource:
    return EventSource.objects.create(tenant=tenant, slug="orders", kind="kafka", id_policy="transport")


def samples() -> Iterator[str]:
    answer = Client().get("/metrics", REMOTE_ADDR="127.0.0.1")
    assert answer.status_code == 200
    yield from answer.content.decode().splitlines()


def test_every_gauge_has_its_help_even_while_there_is_nothing(db: None) -> None:
    text = list(samples())

    for name, meaning, _ in GAUGES:
        assert f"# HELP {name} {meaning}" in text


def test_the_backlog_is_told_by_channel_topic_and_partition(source: EventSource) -> None:
    Listener.objects.create(
        instance="host:1", source=source, kind="kafka", assigned={"business-events/3": 7, "business-events/4": None},
        last_loop_at=timezone.now(), started_at=timezone.now(),
    )  # fmt: skip

    found = list(samples())

    assert 'queue_backlog{channel="kafka:business-events",partition="3",topic="business-events"} 7.0' in found
    assert not any('partition="4"' in line for line in found)
    assert 'consumer_assigned_partitions{instance="host:1",source="orders"} 2.0' in found
    assert 'consumer_paused{reason="",source="orders"} 0.0' in found


def test_a_paused_listener_says_why_in_one_word(source: EventSource) -> None:
    Listener.objects.create(
        instance="host:1", source=source, kind="kafka", assigned={}, state="paused",
        reason="database: could not connect to 10.0.0.7", last_loop_at=timezone.now(), started_at=timezone.now(),
    )  # fmt: skip

    assert 'consumer_paused{reason="database",source="orders"} 1.0' in list(samples())


def test_open_dead_letters_are_counted_and_the_oldest_has_its_age(tenant: Tenant, source: EventSource) -> None:
    for hours, state in ((1, "open"), (3, "open"), (9, "discarded")):
        moment = timezone.now() - timedelta(hours=hours)
        DeadLetter.objects.create(
            tenant=tenant, event_source=source, identity=uuid4(), channel="kafka:e", reason="malformed", raw=b"{",
            first_seen=moment, last_seen=moment, state=state,
        )  # fmt: skip

    found = list(samples())

    assert 'dead_letters_open{reason="malformed"} 2.0' in found
    age = next(float(line.split()[1]) for line in found if line.startswith("dead_letter_oldest_age_seconds "))
    assert 3 * 3600 <= age < 3 * 3600 + 60


def test_held_firings_are_counted_by_rule(tenant: Tenant) -> None:
    rule = TriggerRule.objects.create(tenant=tenant, slug="big-order", spec={})
    for number, outcome in enumerate(("held", "held", "fired")):
        Firing.objects.create(
            tenant=tenant, rule_id=rule.pk, rule_version=1, event_id=number, outcome=outcome, created_at=timezone.now()
        )

    assert 'rule_firings_held{rule="big-order"} 2.0' in list(samples())


def test_a_scrape_asks_a_fixed_number_of_questions(tenant: Tenant, source: EventSource) -> None:
    from django.test.utils import CaptureQueriesContext

    from triggers.collectors import EventCollector

    with CaptureQueriesContext(connection) as alone:
        list(EventCollector().collect())
    for number in range(20):
        Listener.objects.create(
            instance=f"host:{number}", source=source, kind="kafka", assigned={f"e/{number}": 1},
            last_loop_at=timezone.now(), started_at=timezone.now(),
        )  # fmt: skip
        TriggerRule.objects.create(tenant=tenant, slug=f"rule-{number}", spec={})
    with CaptureQueriesContext(connection) as many:
        list(EventCollector().collect())

    assert len(many) == len(alone)
