"""The role `dlx-import`: what RabbitMQ gave up goes into the dead letters, before it expires unseen.

Messages come to `schedule.dlx.queue` because their time was over, their queue full, their deliveries too many, or
because a reader rejected them. The broker's own account of that, `x-death`, is kept with them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import OperationalError
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError, ChannelClosedByBroker

from orchestrator.conf import options
from orchestrator.errors import UpbeatError
from orchestrator.models import Tenant
from orchestrator.services.secrets import reveal_secrets
from triggers.envelope import Problem
from triggers.ingest import Infrastructure, Pipeline, Prepared, SourceView
from triggers.ingest.batch import Item
from triggers.listeners.rabbitmq import received_of
from triggers.listeners.rabbitmq_topology import DEAD_LETTER_QUEUE
from triggers.models import EventSource
from triggers.rules_cache import RuleCache
from triggers.sources.rabbitmq import Address, RabbitConfig, address_of, default_address, parameters

logger = logging.getLogger(__name__)

#: Messages of one turn and broker.
MOST: Final = 500
#: Seconds for which the sources are taken for unchanged.
LOOKS_EVERY: Final = 10.0
#: Seconds until a broker that did not answer, or has no such queue, is asked again.
RETRY_SECONDS: Final = 15.0

_LOST: Final = (AMQPError, OSError)
Delivery = tuple[Any, Any, bytes]


def turn(guard: Callable[[], bool]) -> int:
    """Import a bounded number of messages; returns how many. See `roles.py`."""
    return _importer.turn(guard)


@dataclass(slots=True)
class _Broker:
    """A broker whose dead letters are taken."""

    address: Address
    secrets: Mapping[str, str]
    #: Queue → the source that reads it.
    sources: dict[str, EventSource] = field(default_factory=dict)


@dataclass(slots=True)
class _Link:
    """A connection as it was left by the last turn."""

    connection: BlockingConnection | None = None
    channel: BlockingChannel | None = None
    retry_at: float = 0.0

    def close(self) -> None:
        """What was not acknowledged goes back to its queue."""
        connection, self.connection, self.channel = self.connection, None, None
        if connection is not None and connection.is_open:
            with contextlib.suppress(*_LOST):
                connection.close()


class Importer:
    """The connections of this role in this process. For one thread."""

    def __init__(self) -> None:
        self._brokers: list[_Broker] = []
        self._links: dict[Address, _Link] = {}
        self._looked_at = float("-inf")

    def turn(self, guard: Callable[[], bool]) -> int:
        """Take what lies in the dead-letter queue of each broker. Raises OperationalError: nothing was taken."""
        if time.monotonic() - self._looked_at >= LOOKS_EVERY:
            self._brokers = brokers()
            self._looked_at = time.monotonic()
            for address in self._links.keys() - {broker.address for broker in self._brokers}:
                self._links.pop(address).close()
        return sum(self._take(broker, guard) for broker in self._brokers)

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for link in self._links.values():
            link.close()
        self._looked_at = float("-inf")

    def _take(self, broker: _Broker, guard: Callable[[], bool]) -> int:
        link = self._links.setdefault(broker.address, _Link())
        if time.monotonic() < link.retry_at:
            return 0
        try:
            channel = self._channel(broker, link)
            taken: list[Delivery] = []
            while len(taken) < MOST:
                method, properties, body = channel.basic_get(DEAD_LETTER_QUEUE)
                if method is None:
                    break
                taken.append((method, properties, body))
            if not taken:
                return 0
            try:
                _write(broker, taken, guard)
            except Infrastructure as error:
                link.close()
                raise OperationalError(str(error)) from error
            channel.basic_ack(taken[-1][0].delivery_tag, multiple=True)
        except (*_LOST, UpbeatError) as error:
            link.close()
            link.retry_at = time.monotonic() + RETRY_SECONDS
            absent = isinstance(error, ChannelClosedByBroker) and error.reply_code == 404
            # Who has not declared the contract's queues has no dead letters to lose.
            level = logging.DEBUG if absent else logging.WARNING
            reason = str(error) or type(error).__name__
            logger.log(level, "dead letters cannot be taken", extra={"broker": str(broker.address), "reason": reason})
            return 0
        return len(taken)

    def _channel(self, broker: _Broker, link: _Link) -> Any:
        if link.connection is not None and link.connection.is_open:
            # Between two turns nobody sends heartbeats: the broker may have ended it, which shows here.
            with contextlib.suppress(*_LOST):
                link.connection.process_data_events(time_limit=0)
        if link.channel is None or not link.channel.is_open:
            link.close()
            link.connection = BlockingConnection(parameters(broker.address, broker.secrets, name="upbeat dlx-import"))
            link.channel = link.connection.channel()
        return link.channel


_importer = Importer()


def brokers() -> list[_Broker]:
    """Return the brokers that sources read, and the one of UPBEAT_RABBITMQ_URL."""
    found: dict[Address, _Broker] = {}
    if options().rabbitmq_url:
        found[default_address()] = _Broker(default_address(), {})
    for source in EventSource.objects.filter(kind="rabbitmq").order_by("pk"):
        config = RabbitConfig.of(source.config)
        try:
            values = reveal_secrets(source.tenant_id, source.secrets.values())
            secrets = {role: values[name] for role, name in source.secrets.items()}
            address = address_of(config, secrets)
        except UpbeatError as error:
            # The source's own listener says so too, where it is seen.
            logger.warning("a source cannot be reached", extra={"source": source.slug, "reason": error.message})
            continue
        broker = found.setdefault(address, _Broker(address, secrets))
        for queue in config.queues:
            broker.sources.setdefault(queue, source)
    return list(found.values())


def _write(broker: _Broker, taken: Sequence[Delivery], guard: Callable[[], bool]) -> None:
    def still_leading() -> None:
        if not guard():
            raise Infrastructure("another process imports now")

    batches: dict[EventSource | None, list[Delivery]] = {}
    for delivery in taken:
        queue, _ = death_of(delivery[1])
        batches.setdefault(broker.sources.get(queue), []).append(delivery)
    for source, deliveries in batches.items():
        if source is None:
            tenant_id = Tenant.objects.values_list("pk", flat=True).get(slug="default")
            pipeline = Pipeline(None, cache=RuleCache(), tenant_id=tenant_id)
        else:
            pipeline = Pipeline(SourceView.of(source), cache=RuleCache())
        items = [_letter(pipeline.source.tenant_id, order, delivery) for order, delivery in enumerate(deliveries)]
        pipeline.write(Prepared(items, len(items)), hook=still_leading)


def _letter(tenant_id: int, order: int, delivery: Delivery) -> Item:
    queue, reason = death_of(delivery[1])
    item = Item(received_of(queue or DEAD_LETTER_QUEUE, *delivery), tenant_id, order)
    item.problem = Problem(f"dlx:{reason}"[:32], _WORDS.get(reason, f"RabbitMQ gave it up: {reason}"))
    return item


#: RabbitMQ's reasons. https://www.rabbitmq.com/docs/dlx
_WORDS: Final[Mapping[str, str]] = {
    "expired": "Nobody read it before its time was over.",
    "maxlen": "Its queue was full.",
    "delivery_limit": "It was delivered too often without an acknowledgement.",
    "rejected": "A reader rejected it.",
}


def death_of(properties: Any) -> tuple[str, str]:
    """Return the queue in which a message died last, and why; empty and `unknown` where it does not say."""
    deaths = (properties.headers or {}).get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(last, Mapping):
        return "", "unknown"
    return str(last.get("queue") or ""), str(last.get("reason") or "unknown")
