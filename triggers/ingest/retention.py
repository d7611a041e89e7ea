"""What is forgotten, and when: keys of messages, events with their firings, the states of closed windows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Min, QuerySet

from orchestrator.conf import options
from orchestrator.services.transactions import in_transaction
from triggers.ingest import partitions
from triggers.models import Event, EventKey, Firing, RuleState

#: Rows of one transaction.
BATCH: Final = 2000
#: A window that closed so long ago is no part of any decision.
STATE_LIVES: Final = timedelta(days=1)


def key_retention() -> timedelta | None:
    """How long the keys of messages are kept; None: for ever."""
    days = options().event_key_days
    return timedelta(days=days) if days else None


def forget(now: datetime, guard: Callable[[], bool] = lambda: True) -> int:
    """Delete one batch of everything that is too old; returns how many rows and partitions went. Safe to call twice.

    `guard` is asked first in each transaction; nothing is deleted when it says no.
    """
    return _forget_keys(now, guard) + _forget_events(now, guard) + _forget_states(now, guard)


def _forget_keys(now: datetime, guard: Callable[[], bool]) -> int:
    lives = key_retention()
    if lives is None:
        return 0
    return _delete(EventKey.objects.filter(received_at__lt=now - lives), guard)


def _forget_events(now: datetime, guard: Callable[[], bool]) -> int:
    days = options().event_retention_days
    if not days:
        return 0
    before = now - timedelta(days=days)
    if not partitions.is_partitioned():
        gone = _delete(Event.objects.filter(received_at__lt=before), guard)
    else:
        gone = len(partitions.drop_days(before))
    # Firings go with their events, those that still wait excepted: ids grow with time.
    oldest = Event.objects.aggregate(oldest=Min("id"))["oldest"]
    if oldest is None:
        return gone
    return gone + _delete(Firing.objects.filter(event_id__lt=oldest).exclude(outcome="held"), guard)


def _forget_states(now: datetime, guard: Callable[[], bool]) -> int:
    # The group's number must not start anew while runs of its old numbers are known by their trigger keys.
    return _delete(RuleState.objects.filter(window_until__lt=now - STATE_LIVES, firing_id=None, generation=0), guard)


def _delete(rows: QuerySet[Any, Any], guard: Callable[[], bool]) -> int:
    def work() -> int:
        if not guard():
            return 0
        ids = list(rows.order_by().values_list("pk", flat=True)[:BATCH])
        if not ids:
            return 0
        with connection.cursor() as cursor:
            table = rows.model._meta.db_table
            column = rows.model._meta.pk.column
            if connection.vendor == "postgresql":
                cursor.execute(f'delete from "{table}" where "{column}" = any(%s)', [ids])
            else:
                values = [value.hex if hasattr(value, "hex") and not isinstance(value, int) else value for value in ids]
                cursor.executemany(f'delete from "{table}" where "{column}" = %s', [(value,) for value in values])
        return len(ids)

    return in_transaction(work)
