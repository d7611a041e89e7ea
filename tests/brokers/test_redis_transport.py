"""Our way to take messages from Redis: what it leaves there is what kombu leaves, and no acknowledgement is forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import kombu.transport.redis
import pytest
import redis
from kombu.asynchronous import Hub

from orchestrator.canvas import redis_transport

PREFIX = "transport-test:"
LANES = ("first", "second")
OPTIONS = {"global_keyprefix": PREFIX, "queue_order_strategy": "priority", "socket_timeout": 5}


class Worker:
    """The consuming half of a worker: a loop, a channel, and what it has received."""

    def __init__(self, url: str, *, slots: int) -> None:
        self.hub = Hub()
        self.connection = kombu.Connection(url, transport_options=OPTIONS)
        self.connection.register_with_event_loop(self.hub)
        self.received: list[Any] = []
        self.channel = self.connection.default_channel
        self.consumer = kombu.Consumer(
            self.channel, [queue(lane) for lane in LANES], on_message=self.received.append, prefetch_count=slots
        )
        self.consumer.consume()
        self.loop = self.hub.create_loop()

    def turn_until(self, condition: Callable[[], bool], *, within: float = 10.0) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, "the loop has turned in vain"
            self.hub.call_soon(lambda: None)  # from this very thread: a turn waits for the socket alone
            next(self.loop)

    def bodies(self) -> list[Any]:
        return [message.payload for message in self.received]


def queue(name: str) -> kombu.Queue:
    return kombu.Queue(name, kombu.Exchange("upbeat", type="direct"), routing_key=name)


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    for key in client.keys(PREFIX + "*"):
        client.delete(key)
    client.close()


@pytest.fixture
def publish(redis_url: str, server: redis.Redis) -> Iterator[Callable[..., None]]:
    with kombu.Connection(redis_url, transport_options=OPTIONS) as connection, connection.Producer() as producer:

        def send(*bodies: Any, lane: str = "first", priority: int = 0) -> None:
            for body in bodies:
                producer.publish(
                    body,
                    exchange="upbeat",
                    routing_key=lane,
                    declare=[queue(lane)],
                    priority=priority,
                    serializer="json",
                )

        yield send


@pytest.fixture
def start(redis_url: str, server: redis.Redis) -> Iterator[Callable[[int], Worker]]:
    workers: list[Worker] = []

    def make(slots: int) -> Worker:
        workers.append(Worker(redis_url, slots=slots))
        return workers[-1]

    yield make
    for worker in workers:
        worker.connection.close()
        worker.hub.close()


def written_down(server: redis.Redis) -> dict[str, Any]:
    """What is reserved, tag → what kombu would restore it from."""
    found = {tag.decode(): json.loads(text) for tag, text in server.hgetall(f"{PREFIX}unacked").items()}
    assert {tag.decode() for tag in server.zrange(f"{PREFIX}unacked_index", 0, -1)} == found.keys()
    return found


def test_connections_to_redis_go_by_our_transport(redis_url):
    for scheme in ("redis", "rediss"):
        assert kombu.Connection(redis_url.replace("redis", scheme, 1)).get_transport_cls() is redis_transport.Transport


def test_a_message_is_written_down_as_kombu_writes_it(server, publish, start):
    publish({"n": 1}, {"n": 2})
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    (by_kombu,) = written_down(server).values()

    worker.received[0].ack()
    worker.turn_until(lambda: len(worker.received) == 2)

    ((tag, by_us),) = written_down(server).items()
    assert worker.bodies() == [{"n": 1}, {"n": 2}]
    assert tag == worker.received[1].delivery_tag
    assert by_us[0] == worker.received[1]._raw
    assert by_us[1:] == by_kombu[1:] == ["upbeat", "first"]
    assert by_us[0].keys() == by_kombu[0].keys()


def test_kombu_restores_what_we_have_written_down(server, publish, start):
    publish(1, 2)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.received[0].ack()
    worker.turn_until(lambda: len(worker.received) == 2)

    worker.channel.qos.restore_by_tag(worker.received[1].delivery_tag)

    assert written_down(server) == {}
    assert server.llen(f"{PREFIX}first") == 1


def test_free_slots_are_filled_with_one_question(server, publish, start):
    publish(1, 2, 3, 4)
    worker = start(2)
    worker.turn_until(lambda: len(worker.received) == 2)

    for message in worker.received[:2]:
        message.ack()
    worker.turn_until(lambda: len(worker.received) == 4)

    assert worker.bodies() == [1, 2, 3, 4]
    assert set(written_down(server)) == {message.delivery_tag for message in worker.received[2:]}


def test_no_more_is_taken_than_there_are_slots(server, publish, start):
    publish(1, 2, 3)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.received[0].ack()
    worker.turn_until(lambda: len(worker.received) == 2)

    assert server.llen(f"{PREFIX}first") == 1


def test_the_more_urgent_comes_first_whatever_its_lane(publish, start):
    publish("now", lane="first")
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    publish("later", lane="first", priority=6)
    publish("soon", lane="second", priority=3)
    publish("next", lane="second")
    for count in (1, 2, 3):
        worker.received[-1].ack()
        worker.turn_until(lambda count=count: len(worker.received) == count + 1)

    assert worker.bodies() == ["now", "next", "soon", "later"]


def test_an_acknowledgement_is_written_while_another_slot_waits_for_work(server, publish, start):
    publish(1)
    worker = start(2)
    worker.turn_until(lambda: len(worker.received) == 1 and worker.channel._in_poll)

    worker.received[0].ack()
    worker.turn_until(lambda: not worker.channel.qos.done)

    assert written_down(server) == {}


def test_after_a_question_that_found_nothing_the_worker_waits_as_before(server, publish, start):
    publish(1)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.received[0].ack()
    worker.turn_until(lambda: written_down(server) == {})
    publish(2)
    worker.turn_until(lambda: len(worker.received) == 2)

    assert worker.bodies() == [1, 2]


def test_a_server_that_has_forgotten_the_script_is_told_again(server, publish, start):
    publish(1, 2, 3)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.received[0].ack()
    worker.turn_until(lambda: len(worker.received) == 2)
    server.script_flush()

    worker.received[1].ack()
    worker.turn_until(lambda: len(worker.received) == 3)

    assert set(written_down(server)) == {worker.received[2].delivery_tag}


def test_what_is_acknowledged_when_the_loop_ends_is_written(server, publish, start):
    publish(1, 2)
    worker = start(2)
    worker.turn_until(lambda: len(worker.received) == 2)
    worker.received[0].ack()

    worker.hub.reset()
    worker.received[1].ack()

    assert written_down(server) == {}


def test_what_is_acknowledged_when_the_channel_closes_is_not_restored(server, publish, start):
    publish(1)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.received[0].ack()

    worker.channel.close()

    assert written_down(server) == {}
    assert server.llen(f"{PREFIX}first") == 0


def test_without_a_loop_an_acknowledgement_is_written_at_once(redis_url, server, publish):
    publish(1)
    received: list[Any] = []
    with (
        kombu.Connection(redis_url, transport_options=OPTIONS) as connection,
        connection.Consumer([queue("first")], on_message=received.append, prefetch_count=1),
    ):
        connection.drain_events(timeout=5)
        received[0].ack()

        assert written_down(server) == {}


def test_a_lost_connection_loses_no_message(server, publish, start):
    publish(1, 2)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    worker.channel.client.connection.disconnect()
    worker.received[0].ack()
    worker.turn_until(lambda: len(worker.received) == 2)

    assert set(written_down(server)) == {worker.received[1].delivery_tag}


def test_what_is_no_message_is_left_to_whoever_reads_it(server, publish, start):
    publish(1)
    worker = start(1)
    worker.turn_until(lambda: len(worker.received) == 1)
    server.lpush(f"{PREFIX}first", "not json")
    worker.received[0].ack()

    with pytest.raises(ValueError):
        worker.turn_until(lambda: len(worker.received) == 2)

    assert written_down(server) == {}


def test_the_methods_that_are_replaced_exist_in_kombu():
    for owner, names in (
        (kombu.transport.redis.Channel, ("_brpop_start", "_brpop_read", "_update_queue_cycle", "_flush_brpop_reauth")),
        (kombu.transport.redis.MultiChannelPoller, ("on_poll_start",)),
        (kombu.transport.redis.Transport, ("register_with_event_loop",)),
        (kombu.transport.redis.QoS, ("append", "ack")),
    ):
        for name in names:
            assert callable(getattr(owner, name)), f"{owner.__name__}.{name}"
    assert isinstance(kombu.transport.redis.Channel.active_queues, property)
