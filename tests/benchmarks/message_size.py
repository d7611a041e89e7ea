"""Bytes of the largest message of a fan-out's header, headers and decoded body, at width 10 and 1,000.

No worker runs: what a worker would do is done here, and the messages are read from the broker's lists.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from typing import Any

import redis
from celery import chord, group

from orchestrator.models import Fragment, TaskRun
from orchestrator.services.runs import expand_fragment, launch_runs
from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, Required
from workers.runtime.attempt import run_attempt

WIDTHS = (10, 1000)


def measure(bench: Bench) -> Figures:
    ours = {width: _largest(bench, width) for width in WIDTHS}
    raw = {width: _largest_raw(width) for width in WIDTHS}
    return Figures(
        "message_size",
        "bytes",
        [max(ours.values())],
        [Required("value", at_most=1200)],
        baselines=[max(raw.values())],
        settings=bench.settings,
        extra={
            **{f"bytes_at_{width}": size for width, size in ours.items()},
            **{f"raw_at_{width}": size for width, size in raw.items()},
        },
    )


def _largest(bench: Bench, width: int) -> int:
    bench.apply(shapes.fanout(width))
    run_id = bench.trigger(f"fanout{width}")
    launch_runs([run_id])
    run_attempt(TaskRun.objects.get(run_id=run_id, position=0).pk, worker="bench")
    fragment = Fragment.objects.get(run_id=run_id)
    for low in range(500, fragment.size, 500):
        expand_fragment(fragment.pk, low, low + 500)
    messages = [m for m in _messages(os.environ["UPBEAT_BROKER_URL"], "upbeat:default*") if m["headers"].get("group")]
    assert len({m["headers"]["id"] for m in messages}) == width
    return max(map(_size, messages))


def _largest_raw(width: int) -> int:
    chord(group(raw_celery.noop.si() for _ in range(width)), raw_celery.noop.si()).apply_async()
    return max(map(_size, _messages(raw_celery.URL, "raw*")))


def _size(message: dict[str, Any]) -> int:
    return len(json.dumps(message["headers"]).encode()) + len(base64.b64decode(message["body"]))


def _messages(url: str, lists: str) -> Iterable[dict[str, Any]]:
    """Take all messages from the lists of that name."""
    with redis.Redis.from_url(url) as client:
        for key in list(client.scan_iter(lists, _type="list")):
            for text in client.lrange(key, 0, -1):
                yield json.loads(text)
            client.delete(key)
