"""RabbitMQ as its users see it: connections by URL, messages published and confirmed, what lies in a queue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import pika
from pika.exceptions import ChannelClosedByBroker

from triggers.sources.rabbitmq import Address, parameters


@contextlib.contextmanager
def channel_of(url: str) -> Iterator[Any]:
    """A channel with publisher confirms, on a connection of its own."""
    connection = pika.BlockingConnection(parameters(Address.of_url(url), name="a test"))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def declare(url: str, queue: str, **arguments: Any) -> str:
    """Make a quorum queue; `max_length=5` is the argument `x-max-length`."""
    told = {"x-queue-type": "quorum"} | {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    with channel_of(url) as channel:
        channel.queue_declare(queue, durable=True, arguments=told)
    return queue


def publish(
    url: str, queue: str, bodies: Iterable[bytes | Mapping[str, Any]], *, exchange: str = "", **properties: Any
) -> int:
    """Publish persistent messages, each returned or confirmed by the broker; returns how many."""
    count = 0
    with channel_of(url) as channel:
        for body in bodies:
            channel.basic_publish(
                exchange,
                queue,
                body if isinstance(body, bytes) else orjson.dumps(body),
                pika.BasicProperties(delivery_mode=2, content_type="application/json", **properties),
                mandatory=True,
            )
            count += 1
    return count


def length(url: str, queue: str) -> int:
    """Messages that are ready: neither read nor held by a reader. -1: there is no such queue."""
    with channel_of(url) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker:
            return -1


def take_all(url: str, queue: str) -> list[tuple[Any, Any, bytes]]:
    """Read what lies in a queue and acknowledge it."""
    taken = []
    with channel_of(url) as channel:
        while (found := channel.basic_get(queue))[0] is not None:
            taken.append(found)
            channel.basic_ack(found[0].delivery_tag)
    return taken


def event(number: int | str, *, event_type: str = "order.created", **payload: Any) -> dict[str, Any]:
    """An event of the contract with an id of its own."""
    return {
        "messageId": f"msg-{number}",
        "eventType": event_type,
        "timestamp": "2026-01-01T00:00:00Z",
        "source": "order-service",
        "destination": "schedule-platform",
        "priority": "HIGH",
        "payload": {"orderId": str(number), **payload},
        "metadata": {"traceId": f"trace-{number}", "version": "1.0", "schema": "order.created.v1"},
    }
