"""What we rely on in Celery, kombu and Redis: an upgrade that changes it fails here, not in production.

Messages are published by `canvas.binding` and run by a real worker; only the tasks' bodies are replaced, by ones that
say that they ran.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, current_app
from celery.fixups.django import DjangoWorkerFixup
from kombu.transport.redis import Channel

import orchestrator.celery as ours
from orchestrator import contracts
from orchestrator.canvas import binding
from orchestrator.canvas.binding import SLICE, ChordMessages, Message
from orchestrator.settings.celery import celery_settings
from tests.support.canvas_app import ADVANCED, EXPANDED, OPEN, RAN, make_app
from tests.support.processes import Process
from tests.support.services import free_port
from tests.support.waiting import eventually, stays

RUN = 41
LABEL = "a-job-with-a-rather-long-name-as-people-give-them #1234567 and_a_task_of_ordinary_length"


class Canvas:
    """One broker with a worker on it, and what its tasks said."""

    def __init__(self, app: Celery, result_url: str) -> None:
        self.app = app
        self.notes = redis.Redis.from_url(result_url, decode_responses=True)
        self._fragment = int(time.time() * 1000)

    def fragment(self) -> int:
        """A new fragment's id: chords of one test must not meet those of another."""
        self._fragment += 1
        return self._fragment

    def forget(self) -> None:
        self.notes.delete(RAN, ADVANCED, EXPANDED, OPEN)

    def ran(self) -> list[int]:
        return [int(id) for id in self.notes.lrange(RAN, 0, -1)]

    def advanced(self) -> list[int]:
        return [int(id) for id in self.notes.lrange(ADVANCED, 0, -1)]

    def keep_open(self, *task_run_ids: int) -> None:
        self.notes.sadd(OPEN, *task_run_ids)

    def let_end(self, *task_run_ids: int) -> None:
        self.notes.srem(OPEN, *task_run_ids)


def message(task_run_id: int, *links: int, pool: str = "default") -> Message:
    return Message(RUN, task_run_id, pool, 2, LABEL, tuple(message(link) for link in links))


def chord(fragment: int, size: int, *indexes: int, opens: bool = True) -> list[ChordMessages]:
    """Headers of a chord, task runs 100 + index; as the reconciler publishes them when it does not open the chord."""
    if opens and indexes == tuple(range(len(indexes))):
        return [ChordMessages(RUN, fragment, size, tuple(message(100 + index) for index in indexes))]
    return [ChordMessages(RUN, fragment, 0, (message(100 + index),), low=index, opens=False) for index in indexes]


@pytest.fixture(params=["redis", "rabbitmq"], scope="module")
def urls(request: pytest.FixtureRequest, redis_url: str) -> tuple[str, str]:
    """Broker and result server; RabbitMQ keeps Redis for the counters."""
    return request.getfixturevalue(f"{request.param}_url"), redis_url


@pytest.fixture(scope="module")
def worker(urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvas]:
    broker, result = urls
    client = redis.Redis.from_url(result)
    client.flushdb()
    app = make_app(broker, result)
    process = Process(
        "worker",
        [
            *(sys.executable, "-m", "celery", "-A", "tests.support.canvas_app", "worker"),
            *("-n", "canvas@%h", "-Q", "default,control", "-P", "threads", "-c", "4", "-l", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ],
        environ={"UPBEAT_TEST_CANVAS_BROKER": broker, "UPBEAT_TEST_CANVAS_RESULT": result},
        log=tmp_path_factory.mktemp("canvas") / "worker.log",
    ).start()
    try:
        process.wait_for_output("ready.", within=60)
        yield Canvas(app, result)
    finally:
        process.stop()
        app.close()
        client.flushdb()
        client.close()


@pytest.fixture
def canvas(worker: Canvas, urls: tuple[str, str], settings: Any) -> Iterator[Canvas]:
    """The broker as the current one: `binding` publishes to it."""
    settings.CELERY = celery_settings(*urls)
    settings.RESULT_URL = urls[1]
    before = current_app._get_current_object()
    binding._declared.clear()
    worker.app.set_current()
    worker.forget()
    yield worker
    before.set_current()
    binding._declared.clear()


def test_a_chord_fires_though_results_are_ignored(canvas: Canvas) -> None:
    assert canvas.app.conf.task_ignore_result is True

    assert binding.publish(chord(canvas.fragment(), 5, *range(5)))

    eventually(lambda: canvas.advanced() == [RUN])
    assert sorted(canvas.ran()) == [100, 101, 102, 103, 104]


def test_a_chain_runs_its_links_in_order(canvas: Canvas) -> None:
    assert binding.publish([message(1, 2, 3)])

    eventually(lambda: canvas.ran() == [1, 2, 3])


def test_ignore_publishes_no_next_link(canvas: Canvas) -> None:
    canvas.keep_open(2)

    binding.publish([message(1, 2, 3)])

    eventually(lambda: canvas.ran() == [1, 2])
    stays(lambda: canvas.ran() == [1, 2], during=0.5)


def test_ignore_gives_no_chord_part_and_the_header_counts_when_it_ends_later(canvas: Canvas) -> None:
    fragment = canvas.fragment()
    canvas.keep_open(101)
    binding.publish(chord(fragment, 3, 0, 1, 2))
    eventually(lambda: sorted(canvas.ran()) == [100, 101, 102])
    stays(lambda: canvas.advanced() == [], during=0.5)

    canvas.let_end(101)
    binding.publish(chord(fragment, 3, 1, opens=False))

    eventually(lambda: canvas.advanced() == [RUN])


def test_a_part_that_comes_twice_is_counted_once(canvas: Canvas) -> None:
    fragment = canvas.fragment()
    binding.publish(chord(fragment, 3, 0, 1))
    binding.publish(chord(fragment, 3, 1, opens=False) * 3)
    eventually(lambda: len(canvas.ran()) == 5)
    stays(lambda: canvas.advanced() == [], during=0.5)

    binding.publish(chord(fragment, 3, 2, opens=False))

    eventually(lambda: canvas.advanced() == [RUN])
    binding.publish(chord(fragment, 3, 0, 1, 2, opens=False))
    eventually(lambda: len(canvas.ran()) == 9)
    stays(lambda: canvas.advanced() == [RUN], during=0.5)


def test_a_half_published_chord_completes_when_the_rest_is_published(canvas: Canvas) -> None:
    fragment = canvas.fragment()
    binding.publish(chord(fragment, 8, *range(5)))
    eventually(lambda: len(canvas.ran()) == 5)
    stays(lambda: canvas.advanced() == [], during=0.3)

    binding.publish(chord(fragment, 8, 5, 6, 7, opens=False))

    eventually(lambda: canvas.advanced() == [RUN])


def test_opening_a_chord_again_after_some_parts_does_not_lose_them(canvas: Canvas) -> None:
    fragment = canvas.fragment()
    binding.publish(chord(fragment, 3, 0, 1))
    eventually(lambda: len(canvas.ran()) == 2)

    binding.publish(chord(fragment, 3, 0, 1, 2))

    eventually(lambda: canvas.advanced() == [RUN])


def test_a_wide_chord_is_published_in_slices(canvas: Canvas) -> None:
    fragment = canvas.fragment()
    headers = tuple(message(100 + index) for index in range(SLICE))

    binding.publish([ChordMessages(RUN, fragment, SLICE + 7, headers)])
    eventually(lambda: canvas.notes.lrange(EXPANDED, 0, -1) == [f"{SLICE}-{SLICE + 7}"])
    eventually(lambda: len(canvas.ran()) == SLICE, within=30)
    assert canvas.advanced() == []
    binding.publish(chord(fragment, 0, *range(SLICE, SLICE + 7), opens=False))

    eventually(lambda: canvas.advanced() == [RUN])


@pytest.mark.parametrize("width", [10, 1000])
def test_a_header_message_has_at_most_1200_bytes_at_any_width(canvas: Canvas, width: int) -> None:
    with canvas.app.connection_for_read() as connection:
        lane = canvas.app.amqp.queues["bulk"](connection.default_channel)
        lane.declare()
        lane.purge()
        headers = tuple(message(2**40 + index, pool="bulk") for index in range(width))
        for start in range(0, width, SLICE):
            part = ChordMessages(RUN, canvas.fragment(), width, headers[start : start + SLICE], low=start, opens=False)
            assert binding.publish([part])

        sizes = []
        while (received := lane.get(no_ack=True)) is not None:
            sizes.append(len(json.dumps(received.headers)) + len(received.body))

    assert len(sizes) == width
    assert max(sizes) <= 1200


def test_a_batch_sends_at_its_end_on_redis_and_at_once_on_rabbitmq(canvas: Canvas) -> None:
    with canvas.app.connection_for_read() as connection:
        lane = canvas.app.amqp.queues["long"](connection.default_channel)
        lane.declare()
        lane.purge()
    with canvas.app.producer_pool.acquire(block=True) as producer:
        with producer.batch(max_size=SLICE):
            for number in range(3):
                binding._publish_task(message(number, pool="long"), producer)
            inside = binding.lane_depth("long")
    is_redis = canvas.app.conf.broker_url.startswith("redis")

    if is_redis:
        assert inside == 0
    eventually(lambda: binding.lane_depth("long") == 3)


def test_the_depth_of_a_lane_is_what_waits_in_it(canvas: Canvas) -> None:
    with canvas.app.connection_for_read() as connection:
        lane = canvas.app.amqp.queues["bulk"](connection.default_channel)
        lane.declare()
        lane.purge()

    binding.publish([Message(RUN, number, "bulk", priority, LABEL) for number, priority in enumerate((0, 1, 2, 3))])

    eventually(lambda: binding.lane_depth("bulk") == 4)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_fails_no_publisher(scheme: str, settings: Any) -> None:
    port = free_port()
    nowhere = f"{scheme}://127.0.0.1:{port}/0" if scheme == "redis" else f"amqp://guest:guest@127.0.0.1:{port}//"
    result = f"redis://127.0.0.1:{port}/0"
    settings.CELERY = celery_settings(nowhere, result)
    app = make_app(nowhere, result)
    before = current_app._get_current_object()
    binding._declared.clear()
    app.set_current()
    began = time.monotonic()
    try:
        assert binding.publish([message(1)]) is False
        assert binding.publish(chord(1, 4, 0, 1, 2, 3)) is False
        assert binding.publish_launch([1]) is False
        with pytest.raises(binding.BROKER_ERRORS):
            binding.lane_depth("default")
    finally:
        before.set_current()
        binding._declared.clear()
        app.close()

    assert time.monotonic() - began < 8


def test_what_we_replace_in_celery_and_kombu_is_still_there_and_ours() -> None:
    assert DjangoWorkerFixup.close_database is ours._close_unusable
    assert Channel.conn_or_acquire is ours._one_client


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (contracts.EXECUTE, "workers.tasks"),
        (contracts.ADVANCE, "orchestrator.tasks"),
        (contracts.EXPAND, "orchestrator.tasks"),
        (contracts.LAUNCH_RUNS, "orchestrator.tasks"),
    ],
)
def test_each_task_name_is_registered_by_its_owner(name: str, owner: str) -> None:
    ours.app.loader.import_default_modules()

    task = ours.app.tasks[name]

    assert task.__module__ == owner
    assert isinstance(task, ours.LedgerTask)


def test_a_message_that_grew_beyond_ids_is_refused() -> None:
    links = [{"options": {"argsrepr": "x" * 140}}] * 11
    binding._refuse_oversize(links)

    with pytest.raises(binding.MessageTooLarge):
        binding._refuse_oversize(links * 2)


def test_what_a_chain_of_twelve_carries_stays_below_the_limit(canvas: Canvas, tmp_path: Path) -> None:
    with canvas.app.connection_for_read() as connection:
        lane = canvas.app.amqp.queues["long"](connection.default_channel)
        lane.declare()
        lane.purge()
        links = tuple(Message(2**31, 2**40 + n, "long", 2, "x" * contracts.LABEL_BYTES) for n in range(11))
        assert binding.publish([Message(2**31, 2**40, "long", 2, "x" * contracts.LABEL_BYTES, links)])
        received = eventually(lambda: lane.get(no_ack=True))

    assert len(received.body) <= binding.BODY_BYTES
