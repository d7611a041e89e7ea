"""The days of the event table on PostgreSQL: made ahead, filled from the default partition when late, dropped at last.

Elsewhere the table is whole, and nothing here does anything but delete.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
from django.db import connection, transaction
from django.db.utils import IntegrityError

logger = logging.getLogger(__name__)

#: Days that exist ahead: a role that nobody hosts for a week shows before events lie in the default partition.
AHEAD: Final = 7
DEFAULT: Final = "triggers_event_default"
_PREFIX: Final = "triggers_event_p"

# Attaching waits for every open writer of the default partition, and every writer waits for it.
_PATIENCE: Final = "set local lock_timeout = '1s'"


def is_partitioned() -> bool:
    """Whether this database keeps a partition a day."""
    return connection.vendor == "postgresql"


def ensure_days(now: datetime) -> list[str]:
    """Make the partitions of today, the day before and the days ahead that do not exist; return their names.

    Events that came before their day did are moved out of the default partition. Safe to call twice, and by two.
    """
    if not is_partitioned():
        return []
    today = now.astimezone(UTC).date()
    missing = [day for day in _days(today) if _name(day) not in partitions()]
    made: list[str] = []
    for day in missing:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(_PATIENCE)
                cursor.execute(_CREATE.format(**_bounds(day)))
        except IntegrityError as error:
            if not isinstance(error.__cause__, psycopg.errors.CheckViolation):
                raise
            _make_from_default(day)
        made.append(_name(day))
    return made


def drop_days(before: datetime) -> list[str]:
    """Drop the partitions whose day ended before a moment; return their names. Safe to call twice."""
    dropped: list[str] = []
    for name in sorted(partitions()):
        day = _day(name)
        if day is None or _start(day + timedelta(days=1)) > before:
            continue
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_PATIENCE)
            cursor.execute(f'drop table if exists "{name}"')
        dropped.append(name)
    return dropped


def partitions() -> set[str]:
    """Return the names of the event table's partitions."""
    with connection.cursor() as cursor:
        cursor.execute("select inhrelid::regclass::text from pg_inherits where inhparent = 'triggers_event'::regclass")
        return {row[0] for row in cursor.fetchall()}


def in_default() -> int:
    """Return how many events lie in no day's partition, counted up to a thousand: there should be none."""
    if not is_partitioned():
        return 0
    with connection.cursor() as cursor:
        cursor.execute(f"select count(*) from (select 1 from {DEFAULT} limit 1000) t")
        count: int = cursor.fetchone()[0]
        return count


_CREATE: Final = (
    "create table if not exists {name} partition of triggers_event for values from ('{start}') to ('{end}')"
)


def _make_from_default(day: date) -> None:
    """Make a day whose events are in the default partition already, and give it them."""
    bounds = _bounds(day)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_PATIENCE)
        # Before the look: what arrives meanwhile would be in nobody's day.
        cursor.execute(f"lock table {DEFAULT} in access exclusive mode")
        cursor.execute(
            "create table {name} (like triggers_event including defaults including constraints)".format(**bounds)
        )
        cursor.execute(
            f"with moved as (delete from {DEFAULT} where received_at >= %(start)s and received_at < %(end)s returning *) "
            f"insert into {bounds['name']} select * from moved",
            bounds,
        )
        cursor.execute(
            "alter table triggers_event attach partition {name} for values from ('{start}') to ('{end}')".format(
                **bounds
            )
        )
    logger.warning("events lay in the default partition", extra={"partition": bounds["name"]})


def _days(today: date) -> Iterator[date]:
    for offset in range(-1, AHEAD + 1):
        yield today + timedelta(days=offset)


def _name(day: date) -> str:
    return f"{_PREFIX}{day:%Y%m%d}"


def _day(name: str) -> date | None:
    if not name.startswith(_PREFIX):
        return None
    return date.fromisoformat(name.removeprefix(_PREFIX))


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _bounds(day: date) -> dict[str, Any]:
    return {"name": _name(day), "start": _start(day).isoformat(), "end": _start(day + timedelta(days=1)).isoformat()}
