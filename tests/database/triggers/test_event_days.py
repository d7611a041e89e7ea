"""The days of the event table, what is forgotten, and the role that sees to both."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.models import JobRun
from tests.support.ingesting import body, make_due, message, orders, rule_of, take
from triggers.ingest import partitions
from triggers.ingest.retention import forget
from triggers.listeners import timers
from triggers.models import Event, EventKey, Firing

pytestmark = pytest.mark.django_db
postgresql = pytest.mark.postgresql


@postgresql
def test_today_and_seven_days_ahead_have_their_partitions():
    now = timezone.now()
    partitions.ensure_days(now)

    names = partitions.partitions()

    for day in range(-1, partitions.AHEAD + 1):
        assert f"triggers_event_p{now + timedelta(days=day):%Y%m%d}" in names
    assert partitions.DEFAULT in names
    assert partitions.ensure_days(now) == []


@postgresql
def test_events_are_stored_in_the_partition_of_their_day_and_read_as_ever():
    partitions.ensure_days(timezone.now())

    take(orders(3))

    with connection.cursor() as cursor:
        cursor.execute(f"select count(*) from triggers_event_p{timezone.now():%Y%m%d}")
        assert cursor.fetchone() == (3,)
    event = Event.objects.get(message_id="msg-1")
    event.priority = "HIGH"
    event.save()
    assert Event.objects.filter(pk=event.pk, priority="HIGH").count() == 1
    made = Event.objects.create(
        tenant_id=event.tenant_id, received_at=timezone.now(), source="s", message_id="m", event_type="t",
        event_time=timezone.now(), channel="c", payload={}, state="no_match",
    )  # fmt: skip
    assert made.pk > event.pk


@postgresql
def test_events_that_came_before_their_day_was_made_are_moved_into_it():
    now = timezone.now()
    partitions.ensure_days(now)
    with connection.cursor() as cursor:
        for name in partitions.partitions() - {partitions.DEFAULT}:
            cursor.execute(f'drop table "{name}"')
    take(orders(5))
    assert partitions.in_default() == 5

    partitions.ensure_days(now)

    assert partitions.in_default() == 0
    assert Event.objects.count() == 5


@postgresql
def test_days_that_are_too_old_are_dropped_whole():
    now = timezone.now()
    partitions.ensure_days(now)
    partitions.ensure_days(now - timedelta(days=40))
    old = f"triggers_event_p{now - timedelta(days=40):%Y%m%d}"
    assert old in partitions.partitions()

    forget(now)

    assert old not in partitions.partitions()
    assert f"triggers_event_p{now:%Y%m%d}" in partitions.partitions()


def test_old_keys_are_forgotten_and_young_ones_kept():
    take(orders(3))
    EventKey.objects.filter(event_id=Event.objects.order_by("pk").first().pk).update(
        received_at=timezone.now() - timedelta(days=16)
    )

    assert forget(timezone.now()) == 1

    assert EventKey.objects.count() == 2
    assert take(orders(3)).counts == {"no_match": 1, "duplicate": 2}


def test_firings_go_with_their_events_those_that_wait_excepted():
    rule_of(ruleId="now", eventType="a")
    rule_of(ruleId="later", eventType="a", delay="5m")
    take([message(body(1, eventType="a"), 1)])
    take([message(body(2, eventType="a"), 2)])
    Event.objects.order_by("pk").first().delete()

    forget(timezone.now())

    assert list(Firing.objects.order_by("pk").values_list("outcome", flat=True)) == ["held", "fired", "held"]


def test_who_does_not_lead_forgets_nothing():
    take(orders(3))
    EventKey.objects.update(received_at=timezone.now() - timedelta(days=16))

    assert forget(timezone.now(), lambda: False) == 0


def test_the_role_releases_what_is_due_and_asks_for_more_at_once(monkeypatch: pytest.MonkeyPatch):
    offered: list[int] = []

    class Taker:
        def offer(self, run_ids: list[int]) -> bool:
            offered.extend(run_ids)
            return True

    monkeypatch.setattr(timers, "_launcher", Taker)
    monkeypatch.setattr(timers, "_housekeeping", timers.Housekeeping())
    rule_of(delay="5m")
    take(orders(3))
    make_due()

    assert timers.turn(lambda: True) >= 3

    assert offered == list(JobRun.objects.order_by("pk").values_list("pk", flat=True))
    assert timers.turn(lambda: True) == 0
