"""Decode and match a batch: messages → items. No database; what goes wrong with a message is that message's alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b, sha256
from typing import Any, Final

import orjson

from triggers.envelope import Envelope, Policy, Problem, Received, canonical_json, read
from triggers.ingest.batch import Item, Prepared, SourceView
from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import LONGEST_ORDERING_KEY
from triggers.ingest.stored import LONGEST_CHAIN, cause_of
from triggers.ingest.tenants import TenantMapping
from triggers.rules.decide import Activation, NotFired, evaluate
from triggers.rules.match import RuleIndex

logger = logging.getLogger(__name__)

#: Runs and events that one event may descend from.
DEEPEST: Final = 16
#: How often one rule may stand in the chain that led to an event.
SAME_RULE: Final = 3
#: The type of the event that a trigger call is kept as.
CALL_TYPE: Final = "job.trigger"
#: Characters of an idempotency key, as the trigger call takes them.
LONGEST_CALL_KEY: Final = 200


class Preparer:
    """Decodes and matches the messages of one source. Safe between threads: it holds nothing of a batch."""

    def __init__(self, source: SourceView) -> None:
        self.source = source
        self._mapping = TenantMapping(source) if source.tenant_mapping else None

    def prepare(
        self, batch: Sequence[Received], index: RuleIndex, now: datetime, *, message_id: str | None = None
    ) -> Prepared:
        """Return what the messages are. Never raises for what a message holds; MemoryError and exits pass through.

        `message_id` replaces the ids of the messages: of a dead letter that is given to the rules after all.
        """
        items: list[Item] = []
        row_of = statements().row_of
        ignored: Counter[str] = Counter()
        redelivered: Counter[str] = Counter()
        for order, received in enumerate(batch):
            if received.redelivered:
                redelivered[received.channel] += 1
            try:
                found = self._read(received, now)
                if isinstance(found, Problem):
                    items.append(self._letter(received, order, found))
                elif isinstance(found, Mapping):
                    items.append(self._call(received, order, found, now, message_id))
                elif found:
                    for envelope in found:
                        item = self._event(received, order, envelope, index, now, message_id)
                        if item.problem is None:
                            # Here, and not while its transaction is open: the next batch is prepared during that.
                            item.row = row_of(item)
                        items.append(item)
                else:
                    ignored[received.channel] += 1
            except MemoryError:
                raise  # the process is beyond help: its end makes the message a suspect
            except Exception as error:  # the border of one message: its neighbours are healthy
                logger.warning("a message could not be decoded", exc_info=error)
                items.append(self._letter(received, order, Problem("malformed", f"{type(error).__name__}: {error}")))
        return Prepared(items, len(batch), ignored, redelivered)

    def _read(self, received: Received, now: datetime) -> list[Envelope] | Problem | Mapping[str, Any]:
        if self.source.takes_calls(received.channel):
            call = _call_in(received, self.source.policy)
            if call is not None:
                return call
        return read(received, self.source.policy, now)

    def _letter(self, received: Received, order: int, problem: Problem) -> Item:
        item = Item(received, self.source.tenant_id, order)
        item.problem = problem
        return item

    def _event(
        self,
        received: Received,
        order: int,
        envelope: Envelope,
        index: RuleIndex,
        now: datetime,
        message_id: str | None,
    ) -> Item:
        source = self.source
        item = Item(received, source.tenant_id, order)
        if message_id is not None:
            envelope = _renamed(envelope, message_id)
        item.envelope = envelope
        activation = None
        if self._mapping is not None:
            activation = _activation(envelope, received, now)
            tenant_id = self._mapping.tenant_of(activation)
            if isinstance(tenant_id, Problem):
                item.problem = tenant_id
                return item
            item.tenant_id = tenant_id
        tenant_id = item.tenant_id
        item.key = key_of(tenant_id, envelope.source, envelope.message_id)
        item.payload = payload = canonical_json(envelope.payload)
        item.sha = sha256(envelope.event_type.encode() + b"\0" + payload).digest()
        if "causation" in envelope.metadata and (problem := _follow(item, envelope.metadata)):
            item.problem = problem
            return item
        if source.key_retention is not None and received.sent_at is not None:
            item.expired = received.sent_at < now - source.key_retention
            if item.expired:
                return item
        candidates = index.candidates(tenant_id, envelope, received.channel, received.headers)
        if candidates:
            if activation is None:
                activation = _activation(envelope, received, now)
            for rule in candidates:
                answer = evaluate(rule, activation)
                if isinstance(answer, NotFired):
                    item.not_fired.append(rule.version_id)
                else:
                    item.fires.append((rule, answer))
        return item

    def _call(
        self, received: Received, order: int, call: Mapping[str, Any], now: datetime, message_id: str | None
    ) -> Item:
        """Return the item of a trigger call: an event that starts what it names, by no rule."""
        source = self.source
        item = Item(received, source.tenant_id, order)
        given = message_id or call.get("messageId") or received.message_id
        if not isinstance(given, str) or not given:
            item.problem = Problem("no_id", "messageId: missing, and it is the call's idempotency key")
        elif len(given) > LONGEST_CALL_KEY or not given.isprintable():
            item.problem = Problem(
                "refused:invalid_request", f"messageId: 1 to {LONGEST_CALL_KEY} printable characters"
            )
        elif not isinstance(call["jobName"], str) or not isinstance(call.get("parameters") or {}, Mapping):
            item.problem = Problem("refused:invalid_request", "jobName: a text; parameters: a mapping")
        else:
            payload = {"jobName": call["jobName"], "parameters": call.get("parameters") or {}}
            item.envelope = Envelope(given, CALL_TYPE, received.sent_at or now, source.slug, payload)
            item.call = payload
            item.payload = canonical_json(payload)
            item.key = key_of(item.tenant_id, source.slug, given)
            item.sha = sha256(CALL_TYPE.encode() + b"\0" + item.payload).digest()
            if b"\\u0000" in item.payload and "\0" in str(payload):
                item.problem = Problem("db_rejected", "a text with a NUL character, which no database stores")
        return item


def key_of(tenant_id: int, source: str, message_id: str) -> bytes:
    """Return the dedupe key as 16 bytes: those of `envelope.dedupe_key`, without an object around them."""
    return blake2b(f"{tenant_id}\0{source}\0{message_id}".encode(), digest_size=16).digest()


def _activation(envelope: Envelope, received: Received, now: datetime) -> Activation:
    # As long as it is stored: what is held is decided again from the stored event.
    key = received.key[:LONGEST_ORDERING_KEY]
    return Activation(envelope, received.channel, received.headers, key, now, shallow=True)


def _call_in(received: Received, policy: Policy) -> Mapping[str, Any] | None:
    """Return the body of a trigger call; None for anything else, which is an ordinary event or no message at all."""
    body = received.body
    if body is None or b'"jobName"' not in body or len(body) > policy.max_bytes:
        return None
    try:
        form = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return form if isinstance(form, dict) and "jobName" in form else None


def _renamed(envelope: Envelope, message_id: str) -> Envelope:
    return Envelope(
        message_id,
        envelope.event_type,
        envelope.timestamp,
        envelope.source,
        envelope.payload,
        envelope.destination,
        envelope.priority,
        envelope.metadata,
    )


def _follow(item: Item, metadata: Mapping[str, Any]) -> Problem | None:
    """Take over where an event comes from; a Problem if it runs in a circle."""
    cause = cause_of(metadata)
    item.root_event_id, item.depth, item.chain = cause.root_event_id, cause.depth, cause.chain[-LONGEST_CHAIN:]
    for rule in set(cause.chain):
        if (times := cause.chain.count(rule)) > SAME_RULE:
            return Problem("loop", f"rule {rule} stands {times} times in the chain that led here")
    if cause.depth > DEEPEST:
        return Problem("loop", f"{cause.depth} runs and events deep, at most {DEEPEST}")
    return None
