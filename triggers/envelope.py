"""A transport's message → canonical events, or a problem with a name. Pure.

The contract's envelope and CloudEvents 1.0 become the same `Envelope`; what cannot becomes a `Problem`, whose reason is
the reason of the dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from triggers import cloud_events
from triggers.cloud_events import Unreadable

#: Named by ourselves alone: whoever could send as `platform` could use up the id of a transition before it happens.
RESERVED_SOURCES: Final = frozenset({"platform", "schedule", "rule"})
#: Characters, as the columns have them.
LONGEST_ID: Final = 500
LONGEST_NAME: Final = 200
#: As deep as a definition may be; beyond, writers of JSON run out of stack.
DEEPEST: Final = 64

#: Shared by all that have none, and never written to.
NOTHING: Final[dict[str, Any]] = {}
_PRIORITIES: Final = {"HIGH": "HIGH", "MEDIUM": "MEDIUM", "LOW": "LOW", "P1": "HIGH", "P2": "MEDIUM", "P3": "LOW"}
_KNOWN: Final = frozenset(
    ("messageId", "eventType", "timestamp", "source", "destination", "priority", "payload", "metadata")
)


class Received(NamedTuple):
    """One message as its transport handed it over; nothing in it is checked."""

    #: `kafka:<topic>`, `rabbitmq:<queue>`, `webhook:<slug>` or `api`.
    channel: str
    #: The raw bytes; None for a Kafka record without a value.
    body: bytes | None
    content_type: str = ""
    #: Lower-case names; bytes that are no UTF-8 are kept as `\\xNN`.
    headers: Mapping[str, str] = NOTHING
    #: `topic/partition` and offset; the queue.
    part: str = ""
    off: int | None = None
    #: What orders it among its kind: Kafka's key.
    key: str = ""
    #: The id that the transport gives it: AMQP's `message_id`, a webhook's delivery id, Kafka's place. May be empty.
    #: With an `off` it is a place, which a source that requires ids of its producers does not take for one.
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
    #: Find NUL characters before the database does. Off, one of them costs a bisection of its batch.
    find_nul: bool = True


class Envelope(NamedTuple):
    """One event in canonical form, as rules see it."""

    message_id: str
    event_type: str
    timestamp: datetime
    source: str
    payload: Mapping[str, Any]
    destination: str = ""
    #: HIGH, MEDIUM, LOW, or empty.
    priority: str = ""
    metadata: Mapping[str, Any] = NOTHING

    @property
    def trace_id(self) -> str:
        """For its column; what is longer, or no text, is whole in `metadata`."""
        return _column(self.metadata.get("traceId"), LONGEST_NAME)

    @property
    def schema(self) -> str:
        return _column(self.metadata.get("schema"), LONGEST_NAME)

    @property
    def version(self) -> str:
        return _column(self.metadata.get("version"), 50)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message is no event. `reason` is one word of the dead letter's vocabulary, `error` is for people."""

    reason: str
    error: str


def read(received: Received, policy: Policy, now: datetime) -> list[Envelope] | Problem:
    """Return the events of a message: one, several of a batch, none of a record without a value. Never raises.

    `now` stands in for a moment that neither the message nor its transport gives. A batch is one message: if one of
    its events has a problem, so has the batch.
    """
    body = received.body
    try:
        if body is not None and len(body) > policy.max_bytes:
            return Problem("too_large", f"{len(body)} bytes, at most {policy.max_bytes}")
        prefix = cloud_events.prefix_in(received.headers) if received.headers else None
        if prefix is not None:
            forms = [cloud_events.binary(received.headers, prefix, body, received.content_type)]
        elif body is None:
            return []
        elif received.content_type and cloud_events.is_structured(received.content_type):
            forms = cloud_events.structured(body, received.content_type)
        else:
            form = orjson.loads(body)
            if form.__class__ is not dict:
                return Problem("not_object", "an event is a JSON object")
            if "specversion" in form and "eventType" not in form:
                # An event in CloudEvents' JSON format under the media type of any JSON.
                form = cloud_events.of_object(form)
            forms = [form]
        if body is not None:
            _check_values(forms, body, find_nul=policy.find_nul)
        return [_envelope(form, received, policy, now) for form in forms]
    except orjson.JSONDecodeError as error:
        return Problem("malformed", f"not JSON: {error}"[:500])
    except Unreadable as error:
        return Problem(error.reason, str(error))


def fingerprint(envelope: Envelope) -> bytes:
    """Return SHA-256 of type and payload, 32 bytes: equal for one event by two channels, however either wrote it."""
    return sha256(envelope.event_type.encode() + b"\0" + canonical_json(envelope.payload)).digest()


def dedupe_key(tenant_id: int, source: str, message_id: str) -> UUID:
    """Return what makes a message one event. No part contains the NUL that separates them."""
    return UUID(bytes=blake2b(f"{tenant_id}\0{source}\0{message_id}".encode(), digest_size=16).digest())


def canonical_json(value: Any) -> bytes:
    """Return a JSON value as text with sorted keys and no spaces."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Integers beyond 64 bits: nothing that was read has them, a database may give them back for what was a float.
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def header_text(value: bytes | str | None) -> str:
    """Return a transport's header as text that can be stored: bytes that are no UTF-8, and NUL, as `\\xNN`."""
    if value is None:
        return ""
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
    return text.replace("\0", "\\x00") if "\0" in text else text


def body_hash(body: bytes | None) -> str:
    """Return the message id of a body where identical bodies are the same event."""
    return "sha256:" + sha256(body or b"").hexdigest()


def _envelope(form: Mapping[str, Any], received: Received, policy: Policy, now: datetime) -> Envelope:
    event_type = _text(form, "eventType", LONGEST_NAME)
    if not event_type:
        raise Unreadable("bad_field", "eventType: missing")
    payload = form.get("payload")
    if payload.__class__ is not dict:
        raise Unreadable("bad_field", f"payload: an object, not {_kind(payload)}")
    assert isinstance(payload, dict)  # for the type checker; exact above
    source = _text(form, "source", LONGEST_NAME) or policy.slug
    if source in RESERVED_SOURCES:
        raise Unreadable("reserved_source", f"source: {source} is not for messages from outside")
    if policy.allowed_sources and source not in policy.allowed_sources and source != policy.slug:
        raise Unreadable("source_not_allowed", f"source: {source} is not allowed by {policy.slug}")
    metadata = form.get("metadata")
    if metadata is None:
        metadata = {}
    elif metadata.__class__ is not dict:
        raise Unreadable("bad_field", f"metadata: an object, not {_kind(metadata)}")
    if not form.keys() <= _KNOWN:
        # The format may grow: a field that we do not know is kept, not refused.
        metadata = {name: value for name, value in form.items() if name not in _KNOWN} | metadata
    timestamp = form.get("timestamp")
    return Envelope(
        _message_id(form, received, policy),
        event_type,
        (received.sent_at or now) if timestamp is None else _moment(timestamp),
        source,
        payload,
        _text(form, "destination", LONGEST_NAME),
        _priority(form.get("priority")),
        metadata,
    )


def _message_id(form: Mapping[str, Any], received: Received, policy: Policy) -> str:
    own = form.get("messageId")
    if own.__class__ is int:
        return str(own)
    if own and (text := _text(form, "messageId", LONGEST_ID)):
        return text
    if policy.id_policy == "bodyhash":
        return body_hash(received.body)
    given = received.message_id
    if not given or (policy.id_policy == "require" and received.off is not None):
        raise Unreadable("no_id", "messageId: missing, and its source takes no other id for one")
    if len(given) > LONGEST_ID or "\0" in given:
        raise Unreadable("bad_field", f"messageId: {_LIMITED.format(LONGEST_ID)}")
    return given


_LIMITED: Final = "at most {} characters, without NUL"


def _text(form: Mapping[str, Any], name: str, longest: int) -> str:
    """Return a field's text, empty for none."""
    value: Any = form.get(name)
    if value.__class__ is str:
        if len(value) <= longest and "\0" not in value:
            return value
        raise Unreadable("bad_field", f"{name}: {_LIMITED.format(longest)}")
    if value is None:
        return ""
    raise Unreadable("bad_field", f"{name}: a text, not {_kind(value)}")


def _priority(value: Any) -> str:
    if not value:
        return ""
    known = _PRIORITIES.get(value.upper()) if isinstance(value, str) else None
    if known is None:
        raise Unreadable("bad_field", f"priority: HIGH, MEDIUM or LOW, not {str(value)[:50]!r}")
    return known


def _moment(value: Any) -> datetime:
    """Read RFC 3339: a date, a time, and a zone without which nobody knows which moment it is."""
    if value.__class__ is str and 20 <= len(value) <= 40 and value[4] == value[7] == "-" and value[10] in "Tt ":
        try:
            if value[-1] == "z" or ":60" in value:
                # A leap second is a moment that this calendar does not have; the one before it is.
                value = value.upper().replace(":60", ":59", 1)
            found = datetime.fromisoformat(value)
            if found.tzinfo is UTC:
                return found
            if found.tzinfo is not None:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Unreadable("bad_field", f"timestamp: a moment such as 2027-01-31T06:00:00Z, not {str(value)[:50]!r}")


def _check_values(forms: list[dict[str, Any]], body: bytes, *, find_nul: bool) -> None:
    """Raise Unreadable for values that are nested too deeply, or that no database stores."""
    # Counting is a hundred times cheaper than walking, and nearly always enough.
    nul = find_nul and b"\\u0000" in body
    if not nul and body.count(b"{") + body.count(b"[") <= DEEPEST:
        return
    for form in forms:
        for value, depth in _values_in(form):
            if depth > DEEPEST:
                raise Unreadable("bad_field", f"nested more than {DEEPEST} levels deep")
            if nul and isinstance(value, str) and "\0" in value:
                raise Unreadable("db_rejected", "a text with a NUL character, which no database stores")


def _values_in(form: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield every value and every key with its depth. Without recursion: the depth is the sender's."""
    pending: list[tuple[Any, int]] = [(form, 1)]
    while pending:
        value, depth = pending.pop()
        yield value, depth
        # Not a level below the limit: who reads on past it has been told.
        if depth > DEEPEST:
            continue
        if isinstance(value, dict):
            pending.extend((key, depth) for key in value)
            pending.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            pending.extend((inner, depth + 1) for inner in value)


def _column(value: Any, longest: int) -> str:
    if value.__class__ is str:
        return value[:longest]
    return str(value)[:longest] if isinstance(value, (int, float)) else ""


def _kind(value: Any) -> str:
    """Name a JSON value's type for people."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "an array", str: "a text", bool: "a truth value"}
    return names.get(value.__class__, "a number")
