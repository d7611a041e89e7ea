"""RabbitMQ as its users see it: connections by URL, messages published and confirmed, what lies in a queue."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
import pika
from pika.exceptions import ChannelClosedByBroker

from tests.support.waiting import eventually
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


def flood(url: str, queue: str, bodies: Iterable[bytes]) -> int:
    """Publish persistent messages to a queue that nobody reads, ten times faster: counted in the end, not confirmed."""
    first, *rest = bodies
    before = length(url, queue)
    # A quorum queue that was just made may lose what is not confirmed, until it has taken its first message.
    publish(url, queue, [first])
    properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
    connection = pika.BlockingConnection(parameters(Address.of_url(url), name="a flood"))
    channel = connection.channel()
    for body in rest:
        channel.basic_publish("", queue, body, properties)
    connection.close()
    count = 1 + len(rest)
    eventually(
        lambda: length(url, queue) - before >= count,
        within=60,
        saying=f"{count} messages are in the queue beside {before}",
    )
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


class Proxy:
    """Stands between a client and a broker, and cuts all connections at once when told to."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 5672)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection without a word of AMQP."""
        pairs, self._pairs = self._pairs, []
        for each in pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            self._pairs += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()
