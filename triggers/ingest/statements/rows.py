"""What the statements take and give, alike for both databases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from triggers.ingest.batch import Item

EVENT_COLUMNS: Final = (
    *("id", "tenant_id", "event_source_id", "received_at", "off", "depth", "state", "not_fired", "event_time"),
    *("source", "message_id", "event_type", "destination", "priority", "trace_id", "schema", "version"),
    *("channel", "part", "ordering_key", "payload", "metadata", "headers"),
)
FIRING_COLUMNS: Final = (
    *("id", "tenant_id", "rule_id", "rule_version", "event_id", "replay_no", "job_run_id", "generation"),
    *("created_at", "release_at", "expires_at", "key_hash", "order_hash", "stage", "outcome", "reason"),
)
LETTER_COLUMNS: Final = (
    *("tenant_id", "event_source_id", "identity", "channel", "part", "off", "message_id", "reason", "error", "raw"),
    *("headers", "first_seen", "last_seen", "tries", "state", "resolved_by"),
)
LONGEST_ORDERING_KEY: Final = 300
_EMPTY: Final = "{}"


class NewEvent(NamedTuple):
    """An item whose key is new, and the state its event is stored in."""

    item: Item
    state: str


@dataclass(slots=True)
class FiringRow:
    """One firing as it is stored."""

    id: int
    tenant_id: int
    rule_id: int
    rule_version: int
    event_id: int
    replay_no: int
    created_at: datetime
    outcome: str
    reason: str = ""
    job_run_id: int | None = None
    stage: str = ""
    key_hash: UUID | None = None
    generation: int = 0
    release_at: datetime | None = None
    expires_at: datetime | None = None
    order_hash: UUID | None = None


@dataclass(slots=True)
class LetterRow:
    """One dead letter as it is stored; `tries` of the same within the batch."""

    identity: UUID
    tenant_id: int
    event_source_id: int | None
    channel: str
    part: str
    off: int | None
    message_id: str
    reason: str
    error: str
    raw: bytes
    headers: str
    tries: int = 1


def texts_of(item: Item) -> tuple[str, ...]:
    """Return the last columns of an event, all of them texts."""
    envelope, received = item.envelope, item.received
    assert envelope is not None
    message_id, event_type, _, source, _, destination, priority, metadata = envelope
    if metadata:
        trace_id, schema, version = envelope.trace_id, envelope.schema, envelope.version
        kept = orjson.dumps(metadata).decode()
    else:
        trace_id = schema = version = ""
        kept = _EMPTY
    headers = received.headers
    return (
        source,
        message_id,
        event_type,
        destination,
        priority,
        trace_id,
        schema,
        version,
        received.channel,
        received.part,
        received.key[:LONGEST_ORDERING_KEY],
        item.payload.decode(),
        kept,
        orjson.dumps(headers).decode() if headers else _EMPTY,
    )


def json_text(value: Any) -> str:
    return orjson.dumps(value).decode()
