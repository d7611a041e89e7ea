"""A transport's message → canonical events, or a problem with a name. Pure.

The contract's envelope and CloudEvents 1.0 become the same `Envelope`; what cannot becomes a `Problem`, whose reason is
the reason of the dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """One message as its transport handed it over; nothing in it is checked."""

    #: `kafka:<topic>`, `rabbitmq:<queue>`, `webhook:<slug>` or `api`.
    channel: str
    #: The raw bytes; None for a Kafka record without a value.
    body: bytes | None
    content_type: str = ""
    #: Lower-case names; bytes that are no UTF-8 are kept as `\\xNN`.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: `topic/partition` and offset; the queue.
    part: str = ""
    off: int | None = None
    #: What orders it among its kind: Kafka's key.
    key: str = ""
    #: The id that the transport gives it: AMQP's `message_id`, a webhook's delivery id, Kafka's place. May be empty.
    message_id: str = ""
    #: The broker's or the provider's moment.
    sent_at: datetime | None = None
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What a source says about its messages."""

    #: The source's slug: the envelope's `source` where a message names none.
    slug: str
    #: `transport`, `require` or `bodyhash`.
    id_policy: str
    #: Bytes of one message at most.
    max_bytes: int = 1 << 20
    #: Sources that a message may name; empty: all but ours.
    allowed_sources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event in canonical form, as rules see it."""

    message_id: str
    event_type: str
    timestamp: datetime
    source: str
    payload: Mapping[str, Any]
    destination: str = ""
    #: HIGH, MEDIUM, LOW, or empty.
    priority: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message is no event. `reason` is one word of the dead letter's vocabulary, `error` is for people."""

    reason: str
    error: str
