"""Celery alone, for comparison: a plain app on the same broker, and the same shapes as canvases.

Its messages are acknowledged early and its results ignored where the canvas allows it: the fastest that Celery does.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable

import redis
from celery import Celery, chain, group
from celery.canvas import Signature

URL = os.environ["UPBEAT_BENCH_RAW_URL"]
app = Celery("raw", broker=URL, backend=URL, set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue="raw", worker_send_task_events=False)

Canvas = Callable[[Signature], Signature]


@app.task
def noop() -> None:
    pass


@app.task
def stamp(key: str) -> None:
    """Say when it started, to whoever waits for the key."""
    now = time.time()
    client.rpush(key, now)


client = redis.Redis.from_url(URL, socket_timeout=None)


def fanout(width: int) -> Canvas:
    return lambda last: chain(noop.si(), group(noop.si() for _ in range(width)), last)


def line(length: int) -> Canvas:
    return lambda last: chain(*(noop.si() for _ in range(length - 1)), last)


def layers(count: int, width: int) -> Canvas:
    """Layers with a barrier task between them: a canvas cannot say which three of the layer before."""

    def build(last: Signature) -> Signature:
        parts: list[Signature] = []
        for layer in range(count):
            parts += [group(noop.si() for _ in range(width)), noop.si() if layer < count - 1 else last]
        return chain(*parts)

    return build


def run(canvas: Canvas) -> float:
    """Publish a canvas and return the seconds until its last task has run, by the caller's clock."""
    key = str(uuid.uuid4())
    signature = canvas(stamp.si(key))
    began = time.perf_counter()
    signature.apply_async()
    if client.blpop([key], timeout=60) is None:
        raise AssertionError("the raw canvas did not end within 60 s")
    return time.perf_counter() - began


def run_many(count: int) -> float:
    """Publish independent tasks one by one and return the seconds until all have run."""
    key = str(uuid.uuid4())
    began = time.perf_counter()
    for _ in range(count):
        stamp.delay(key)
    for _ in range(count):
        if client.blpop([key], timeout=60) is None:
            raise AssertionError("the raw tasks did not end within 60 s")
    return time.perf_counter() - began


def start_seconds() -> float:
    """Publish one task and return the seconds until it started."""
    key = str(uuid.uuid4())
    began = time.time()
    stamp.delay(key)
    answer = client.blpop([key], timeout=10)
    assert answer is not None, "the raw task did not start within 10 s"
    return float(answer[1]) - began
