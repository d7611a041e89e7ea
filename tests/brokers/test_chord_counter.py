"""The connection that each slot keeps for counting: it outlives what happens to servers and connections."""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend

from orchestrator.canvas import chord_counter
from orchestrator.canvas.chord_counter import ChordCounter, Script

ECHO = "return ARGV[1]"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def test_our_apps_count_so_where_redis_is_the_result_backend(redis_url):
    app = Celery("counting", backend=redis_url, set_as_current=False)
    chord_counter.use(app)

    assert type(app.backend) is ChordCounter
    assert isinstance(app.backend._chord_part_return_script, Script)


def test_the_script_that_is_replaced_is_called_as_before():
    assert "self._chord_part_return_script(" in inspect.getsource(RedisBackend.on_chord_part_return)
    assert hasattr(RedisBackend, "_chord_part_return_script")


def test_a_server_that_does_not_know_the_script_is_told(client):
    script = Script(client, ECHO)
    client.script_flush()

    assert script(keys=[], args=["a"], client=client) == b"a"
    assert script(keys=[], args=["b"], client=client) == b"b"


def test_a_connection_that_was_cut_is_made_again(client):
    script = Script(client, ECHO)
    assert script(keys=[], args=["before"], client=client) == b"before"

    script._threads.connection._sock.shutdown(socket.SHUT_RDWR)

    assert script(keys=[], args=["after"], client=client) == b"after"
    assert script(keys=[], args=["later"], client=client) == b"later"


def test_each_thread_has_its_own_connection(client):
    script = Script(client, ECHO)
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.extend(script(keys=[], args=[n], client=client) for _ in range(50)))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(answers) == sorted(str(n).encode() for n in range(4) for _ in range(50))
