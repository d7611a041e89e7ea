"""Dead letters of a batch: rows in its transaction, each identified by where it lay and what it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b, sha256
from typing import Any, Final
from uuid import UUID

import orjson

from orchestrator.services.transitions import record_transition
from triggers.envelope import Problem
from triggers.ingest.batch import Item, SourceView
from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import LetterRow

LONGEST_ERROR: Final = 2000
_MANY: Final = 50


#: An item that is no event, and why.
Refused = tuple[Item, Problem]


def store_letters(cursor: Any, source: SourceView, letters: Sequence[Refused], now: datetime) -> int:
    """Store the dead letters of a batch, once each however often they come; tell alerts of new ones by one Transition.

    Inside the caller's transaction. Returns how many are new.
    """
    rows: dict[UUID, LetterRow] = {}
    for item, problem in letters:
        row = letter_of(source, item, problem)
        known = rows.setdefault(row.identity, row)
        if known is not row:
            known.tries += 1
    ordered = sorted(rows.values(), key=lambda row: row.identity.bytes)
    new: set[UUID] = set()
    for start in range(0, len(ordered), _MANY):
        new |= statements().upsert_letters(cursor, ordered[start : start + _MANY], now)
    if new:
        reasons = Counter(rows[identity].reason for identity in new)
        record_transition(
            subject="event_source",
            subject_id=source.id or 0,
            to_state="dead_letters",
            reason=", ".join(f"{count} {reason}" for reason, count in reasons.most_common()),
            cause="ingest",
            by=source.slug,
        )
    return len(new)


def letter_of(source: SourceView, item: Item, problem: Problem) -> LetterRow:
    """Return the row of a dead letter; what a column cannot hold is cut or written as an escape."""
    received = item.received
    raw = received.body or b""
    message_id = item.envelope.message_id if item.envelope is not None else received.message_id
    message_id = _storable(message_id)[:500]
    return LetterRow(
        identity=identity_of(source.id, received.part, received.off, raw, message_id),
        tenant_id=item.tenant_id,
        event_source_id=source.id,
        channel=_storable(received.channel)[:300],
        part=_storable(received.part)[:300],
        off=received.off,
        message_id=message_id,
        reason=problem.reason[:32],
        error=_storable(problem.error)[:LONGEST_ERROR],
        raw=raw,
        headers=_headers(received.headers),
    )


def identity_of(source_id: int | None, part: str, off: int | None, raw: bytes, message_id: str) -> UUID:
    """Return what makes two dead letters one: the place and the bytes; without a place, the bytes and the id."""
    digest = sha256(raw).hexdigest()
    place = [str(source_id), digest, message_id] if off is None else [str(source_id), part, str(off), digest]
    return UUID(bytes=blake2b("\0".join(place).encode(errors="backslashreplace"), digest_size=16).digest())


def _storable(text: str) -> str:
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def _headers(headers: Any) -> str:
    return orjson.dumps({_storable(name): _storable(str(value)) for name, value in headers.items()}).decode()
