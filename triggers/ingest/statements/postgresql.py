"""The batch writer on PostgreSQL: keys by one INSERT … ON CONFLICT, rows by COPY, few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

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

#: A batch that waits longer than this for a row or a statement is given back and held by its listener.
TIMEOUTS: Final = """
set local lock_timeout = '2s'; set local statement_timeout = '15s';
set local idle_in_transaction_session_timeout = '3s'"""

#: All ids at once, before anything is written: events, firings and runs know each other by them.
TAKE_IDS: Final = """
select now(), array(select nextval('triggers_event_id_seq') from generate_series(1, %s)),
       array(select nextval('triggers_firing_id_seq') from generate_series(1, %s))"""

# Sorted by key: two writers in opposite order deadlock, and in the same one the second waits once.
INSERT_KEYS: Final = """
insert into triggers_eventkey (key, event_id, payload_sha, received_at)
select k, e, s, now() from unnest(%s::uuid[], %s::bigint[], %s::bytea[]) as t(k, e, s)
    on conflict (key) do nothing
returning event_id"""

KNOWN_KEYS: Final = "select key, event_id, payload_sha from triggers_eventkey where key = any(%s::uuid[])"

FORGET_KEYS: Final = "delete from triggers_eventkey where key = any(%s::uuid[])"

#: Shared with other writers; whoever deletes a rule waits for us, and then finds what we made of it.
LOCK_RULES: Final = """
select id from triggers_triggerrule where id = any(%s) and deleted_at is null order by id for share"""

COPY_EVENTS: Final = f"copy triggers_event ({', '.join(EVENT_COLUMNS)}) from stdin"
COPY_FIRINGS: Final = f"copy triggers_firing ({', '.join(FIRING_COLUMNS)}) from stdin"

#: Locks the rows in the order given, those that exist and those that it makes.
LOCK_STATES: Final = """
insert into triggers_rulestate (rule_id, stage, key_hash, count, generation)
select r, s, k, 0, 0 from unnest(%s::bigint[], %s::text[], %s::uuid[]) as t(r, s, k)
    on conflict (rule_id, stage, key_hash) do update set count = triggers_rulestate.count
returning rule_id, stage, key_hash, opened_at, window_until, count, generation, firing_id"""

SAVE_STATES: Final = """
update triggers_rulestate r
   set opened_at = t.opened_at, window_until = t.window_until, count = t.count, generation = t.generation,
       firing_id = t.firing_id
  from unnest(%s::bigint[], %s::text[], %s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::bigint[],
              %s::bigint[]) as t(rule_id, stage, key_hash, opened_at, window_until, count, generation, firing_id)
 where r.rule_id = t.rule_id and r.stage = t.stage and r.key_hash = t.key_hash"""

#: The moment at which the last of those that are held before it is released, by rule and order.
HELD_BEFORE: Final = """
select rule_id, order_hash, max(release_at) from triggers_firing
 where outcome = 'held' and (rule_id, order_hash) in (select * from unnest(%s::bigint[], %s::uuid[]))
 group by rule_id, order_hash"""

UPSERT_LETTERS: Final = f"""
insert into triggers_deadletter ({", ".join(LETTER_COLUMNS)})
values {{rows}}
    on conflict (identity) do update set tries = triggers_deadletter.tries + excluded.tries,
                                         last_seen = excluded.last_seen
returning identity, tries"""

#: Rows of one piece that is sent: the server works on it while the next is made.
_PIECE: Final = 64


def begin(cursor: Any) -> None:
    """Limit this transaction: none of its waits may outlast a broker's patience."""
    cursor.execute(TIMEOUTS)


def take_ids(cursor: Any, *, events: int, firings: int) -> tuple[datetime, list[int], list[int]]:
    """Return the moment of the transaction, and as many unused ids, ascending."""
    cursor.execute(TAKE_IDS, [events, firings])
    moment, event_ids, firing_ids = cursor.fetchone()
    return moment, event_ids, firing_ids


def insert_keys(cursor: Any, items: Sequence[Item], now: datetime) -> set[int]:
    """Insert the keys of items, which are sorted by key and have none twice; return the event ids of the new ones."""
    keys = ",".join([item.key.hex() for item in items])
    ids = ",".join([str(item.event_id) for item in items])
    shas = '","'.join([f"\\\\x{item.sha.hex()}" for item in items])
    cursor.execute(INSERT_KEYS, [f"{{{keys}}}", f"{{{ids}}}", f'{{"{shas}"}}'])
    return {row[0] for row in cursor.fetchall()}


def known_keys(cursor: Any, keys: Sequence[bytes]) -> dict[bytes, tuple[int, bytes]]:
    """Return key → the event that was first, and the hash of what it was."""
    cursor.execute(KNOWN_KEYS, [f"{{{','.join(key.hex() for key in keys)}}}"])
    return {key.bytes: (event_id, bytes(sha)) for key, event_id, sha in cursor.fetchall()}


def forget_keys(cursor: Any, keys: Sequence[bytes]) -> None:
    """Remove keys that this transaction has inserted."""
    if keys:
        cursor.execute(FORGET_KEYS, [f"{{{','.join(key.hex() for key in keys)}}}"])


def lock_rules(cursor: Any, rule_ids: Sequence[int]) -> set[int]:
    """Return those that are not deleted; they stay so until this transaction ends."""
    cursor.execute(LOCK_RULES, [list(rule_ids)])
    return {row[0] for row in cursor.fetchall()}


def insert_events(cursor: Any, events: Sequence[NewEvent], *, source_id: int | None, now: datetime) -> None:
    """Copy events in the order given."""
    _copy(cursor, COPY_EVENTS, _event_lines(events, source_id, now))


def _event_lines(events: Sequence[NewEvent], source_id: int | None, now: datetime) -> Iterable[str]:
    moment = now.isoformat()
    source = r"\N" if source_id is None else str(source_id)
    for item, state in events:
        off = item.received.off
        not_fired = item.not_fired
        yield (
            f"{item.event_id}\t{item.tenant_id}\t{source}\t{moment}\t{_NULL if off is None else off}\t{item.depth}\t"
            f"{state}\t{not_fired if not_fired else '[]'}\t{item.row or row_of(item)}\n"
        )


def row_of(item: Item) -> str:
    """Return the columns of an item's event that are known before it is written."""
    texts = texts_of(item)
    text = _SEPARATOR.join(texts)
    if text.count(_SEPARATOR) == len(texts) - 1:
        text = _escaped(text).replace(_SEPARATOR, "\t")
    else:
        text = "\t".join(map(_escaped, texts))
    assert item.envelope is not None
    return f"{item.envelope.timestamp.isoformat()}\t{text}"


#: ASCII's own "unit separator": between the texts of a row while they are escaped in one go.
_SEPARATOR: Final = "\x1f"
_NULL: Final = r"\N"


def _escaped(text: str) -> str:
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if "\r" in text:
        text = text.replace("\r", "\\r")
    if "\t" in text:
        text = text.replace("\t", "\\t")
    return text


def insert_firings(cursor: Any, rows: Sequence[FiringRow]) -> None:
    """Copy firings in the order given."""
    _copy(cursor, COPY_FIRINGS, map(_firing_line, rows))


def _firing_line(row: FiringRow) -> str:
    key, order = row.key_hash, row.order_hash
    return (
        f"{row.id}\t{row.tenant_id}\t{row.rule_id}\t{row.rule_version}\t{row.event_id}\t{row.replay_no}\t"
        f"{_NULL if row.job_run_id is None else row.job_run_id}\t{row.generation}\t{row.created_at.isoformat()}\t"
        f"{_moment(row.release_at)}\t{_moment(row.expires_at)}\t{_NULL if key is None else key.hex}\t"
        f"{_NULL if order is None else order.hex}\t{row.stage}\t{row.outcome}\t{_escaped(row.reason)}\n"
    )


def _moment(value: datetime | None) -> str:
    return _NULL if value is None else value.isoformat()


def _copy(cursor: Any, statement: str, lines: Iterable[str]) -> None:
    piece: list[str] = []
    with cursor.copy(statement) as copy:
        for line in lines:
            piece.append(line)
            if len(piece) == _PIECE:
                copy.write("".join(piece))
                piece.clear()
        copy.write("".join(piece))


def lock_states(cursor: Any, keys: Sequence[tuple[int, str, UUID]]) -> Mapping[tuple[int, str, UUID], tuple[Any, ...]]:
    """Lock the states of keys, which are sorted, and return what each holds; one that did not exist is empty."""
    cursor.execute(LOCK_STATES, [list(column) for column in zip(*keys, strict=True)])
    return {(row[0], row[1], row[2]): row[3:] for row in cursor.fetchall()}


def save_states(cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write states that this transaction has locked: rule, stage, key and then the columns of `lock_states`."""
    cursor.execute(SAVE_STATES, [list(column) for column in zip(*rows, strict=True)])


def held_before(cursor: Any, keys: Sequence[tuple[int, UUID]]) -> dict[tuple[int, UUID], datetime | None]:
    """Return (rule, order) → when the last held firing of it is released; only those that have one."""
    cursor.execute(HELD_BEFORE, [list(column) for column in zip(*keys, strict=True)])
    return {(rule_id, order): release_at for rule_id, order, release_at in cursor.fetchall()}


def upsert_letters(cursor: Any, rows: Sequence[LetterRow], now: datetime) -> set[UUID]:
    """Store dead letters, sorted by identity and none twice; return the identities that are new."""
    one = "(" + ", ".join(["%s"] * len(LETTER_COLUMNS)) + ")"
    values = [value for row in rows for value in _letter_values(row, now)]
    cursor.execute(UPSERT_LETTERS.format(rows=", ".join([one] * len(rows))), values)
    given = {row.identity: row.tries for row in rows}
    return {identity for identity, tries in cursor.fetchall() if tries == given[identity]}


def _letter_values(row: LetterRow, now: datetime) -> tuple[Any, ...]:
    return (
        *(row.tenant_id, row.event_source_id, row.identity, row.channel, row.part, row.off, row.message_id),
        *(row.reason, row.error, row.raw, row.headers, now, now, row.tries, "open", ""),
    )
