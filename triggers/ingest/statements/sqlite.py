"""The batch writer on SQLite, whose writers are serial: looked up first, then inserted by executemany."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.db.backends.utils import CursorWrapper

from orchestrator.services.transactions import database_now
from triggers.ingest.batch import Item
from triggers.ingest.statements.rows import (
    EVENT_COLUMNS,
    FIRING_COLUMNS,
    LETTER_COLUMNS,
    FiringRow,
    LetterRow,
    NewEvent,
    texts_of,
)

#: Values of one statement at most.
_MANY: Final = 500


def begin(cursor: Any) -> None:
    """Nothing to limit: the connection waits for the one writer's lock as long as it is set to."""


def take_ids(cursor: Any, *, events: int, firings: int) -> tuple[datetime, list[int], list[int]]:
    """Return the moment of the transaction, and as many unused ids, ascending: nobody else writes until it ends."""
    cursor.execute("select name, seq from sqlite_sequence where name in ('triggers_event', 'triggers_firing')")
    last = dict(cursor.fetchall())
    event, firing = last.get("triggers_event", 0), last.get("triggers_firing", 0)
    return database_now(), list(range(event + 1, event + 1 + events)), list(range(firing + 1, firing + 1 + firings))


def insert_keys(cursor: CursorWrapper, items: Sequence[Item], now: datetime) -> set[int]:
    """Insert the keys of items, which have none twice; return the event ids of the new ones."""
    known = known_keys(cursor, [item.key for item in items])
    new = [item for item in items if item.key not in known]
    cursor.executemany(
        "insert into triggers_eventkey (key, event_id, payload_sha, received_at) values (%s, %s, %s, %s)",
        [(item.key.hex(), item.event_id, item.sha, _moment(now)) for item in new],
    )
    return {item.event_id for item in new}


def known_keys(cursor: Any, keys: Sequence[bytes]) -> dict[bytes, tuple[int, bytes]]:
    """Return key → the event that was first, and the hash of what it was."""
    found: dict[bytes, tuple[int, bytes]] = {}
    for start in range(0, len(keys), _MANY):
        some = [key.hex() for key in keys[start : start + _MANY]]
        cursor.execute(f"select key, event_id, payload_sha from triggers_eventkey where key in ({_marks(some)})", some)
        found |= {bytes.fromhex(key): (event_id, bytes(sha)) for key, event_id, sha in cursor.fetchall()}
    return found


def forget_keys(cursor: Any, keys: Sequence[bytes]) -> None:
    """Remove keys that this transaction has inserted."""
    cursor.executemany("delete from triggers_eventkey where key = %s", [(key.hex(),) for key in keys])


def lock_rules(cursor: Any, rule_ids: Sequence[int]) -> set[int]:
    """Return those that are not deleted."""
    found: set[int] = set()
    for start in range(0, len(rule_ids), _MANY):
        some = list(rule_ids[start : start + _MANY])
        cursor.execute(f"select id from triggers_triggerrule where id in ({_marks(some)}) and deleted_at is null", some)
        found |= {row[0] for row in cursor.fetchall()}
    return found


def row_of(item: Item) -> tuple[str | None, ...]:
    """Return the columns of an item's event that are known before it is written."""
    assert item.envelope is not None
    return (_moment(item.envelope.timestamp), *texts_of(item))


def insert_events(cursor: Any, events: Sequence[NewEvent], *, source_id: int | None, now: datetime) -> None:
    """Insert events in the order given."""
    moment = _moment(now)
    cursor.executemany(
        f"insert into triggers_event ({', '.join(EVENT_COLUMNS)}) values ({_marks(EVENT_COLUMNS)})",
        [
            (
                *(item.event_id, item.tenant_id, source_id, moment, item.received.off, item.depth, state),
                *(str(item.not_fired), *(item.row or row_of(item))),
            )
            for item, state in events
        ],
    )


def insert_firings(cursor: Any, rows: Sequence[FiringRow]) -> None:
    """Insert firings in the order given."""
    cursor.executemany(
        f"insert into triggers_firing ({', '.join(FIRING_COLUMNS)}) values ({_marks(FIRING_COLUMNS)})",
        [
            (
                *(row.id, row.tenant_id, row.rule_id, row.rule_version, row.event_id, row.replay_no, row.job_run_id),
                *(row.generation, _moment(row.created_at), _moment(row.release_at), _moment(row.expires_at)),
                *(_hex(row.key_hash), _hex(row.order_hash), row.stage, row.outcome, row.reason),
            )
            for row in rows
        ],
    )


def lock_states(cursor: Any, keys: Sequence[tuple[int, str, UUID]]) -> Mapping[tuple[int, str, UUID], tuple[Any, ...]]:
    """Return what the state of each key holds; one that did not exist is made, and empty."""
    cursor.executemany(
        """insert into triggers_rulestate (rule_id, stage, key_hash, count, generation) values (%s, %s, %s, 0, 0)
               on conflict (rule_id, stage, key_hash) do nothing""",
        [(rule_id, stage, key.hex) for rule_id, stage, key in keys],
    )
    found: dict[tuple[int, str, UUID], tuple[Any, ...]] = {}
    for rule_id, stage, key in keys:
        cursor.execute(
            """select opened_at, window_until, count, generation, firing_id from triggers_rulestate
                where rule_id = %s and stage = %s and key_hash = %s""",
            [rule_id, stage, key.hex],
        )
        opened_at, window_until, *rest = cursor.fetchone()
        found[rule_id, stage, key] = (_read(opened_at), _read(window_until), *rest)
    return found


def save_states(cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write states: rule, stage, key and then the columns of `lock_states`."""
    cursor.executemany(
        """update triggers_rulestate
              set opened_at = %s, window_until = %s, count = %s, generation = %s, firing_id = %s
            where rule_id = %s and stage = %s and key_hash = %s""",
        [
            (_moment(opened_at), _moment(window_until), *rest, rule_id, stage, key.hex)
            for rule_id, stage, key, opened_at, window_until, *rest in rows
        ],
    )


def held_before(cursor: Any, keys: Sequence[tuple[int, UUID]]) -> dict[tuple[int, UUID], datetime | None]:
    """Return (rule, order) → when the last held firing of it is released; only those that have one."""
    found: dict[tuple[int, UUID], datetime | None] = {}
    for rule_id, order in keys:
        cursor.execute(
            """select count(*), max(release_at) from triggers_firing
                where outcome = 'held' and rule_id = %s and order_hash = %s""",
            [rule_id, order.hex],
        )
        count, release_at = cursor.fetchone()
        if count:
            found[rule_id, order] = _read(release_at)
    return found


def upsert_letters(cursor: Any, rows: Sequence[LetterRow], now: datetime) -> set[UUID]:
    """Store dead letters, none twice; return the identities that are new."""
    new: set[UUID] = set()
    moment = _moment(now)
    for row in rows:
        cursor.execute(
            "update triggers_deadletter set tries = tries + %s, last_seen = %s where identity = %s",
            [row.tries, moment, row.identity.hex],
        )
        if cursor.rowcount:
            continue
        new.add(row.identity)
        cursor.execute(
            f"insert into triggers_deadletter ({', '.join(LETTER_COLUMNS)}) values ({_marks(LETTER_COLUMNS)})",
            [
                *(row.tenant_id, row.event_source_id, row.identity.hex, row.channel, row.part, row.off),
                *(row.message_id, row.reason, row.error, row.raw, row.headers, moment, moment, row.tries, "open", ""),
            ],
        )
    return new


def _marks(values: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def _hex(value: UUID | None) -> str | None:
    return None if value is None else value.hex


def _moment(value: datetime | None) -> str | None:
    """Return a moment as Django stores it here: UTC, without a zone."""
    return None if value is None else str(value.astimezone(UTC).replace(tzinfo=None))


def _read(value: str | datetime | None) -> datetime | None:
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC)
