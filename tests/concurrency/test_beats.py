"""Two beats, one schedule: plain periodic tasks fire once, also when the leading beat is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import redis

from tests.concurrency.kill_load import Cluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.kill

QUEUE = "upbeat:default"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster("redis", tmp_path, stack, random.Random(1))
        stack.callback(cluster.stop)
        cluster.manage("migrate", "--verbosity", "0")
        with psycopg.connect(cluster.postgres.url, autocommit=True) as connection:
            connection.execute(
                "insert into django_celery_beat_intervalschedule (every, period) values (1, 'seconds') returning id"
            )
            connection.execute(
                "insert into django_celery_beat_periodictask (name, task, args, kwargs, interval_id, enabled,"
                " total_run_count, date_changed, description, one_off, headers)"
                " select 'tick', 'nobody.listens', '[]', '{}', id, true, 0, now(), '', false, '{}'"
                " from django_celery_beat_intervalschedule"
            )
        yield cluster


def test_two_beats_fire_a_periodic_task_once_and_a_killed_leader_is_replaced(cluster: Cluster) -> None:
    broker = redis.Redis.from_url(cluster.redis.url)
    first, second = cluster.beats
    first.start()
    eventually(lambda: broker.llen(QUEUE), within=30, saying="the first beat fires")
    second.start()
    eventually(lambda: cluster.reconciler_ticks(1), within=30, saying="the second beat runs")
    _, epoch = cluster.leader("beat")

    before, began = broker.llen(QUEUE), time.monotonic()
    eventually(lambda: time.monotonic() - began > 6, within=8)
    fired, seconds = broker.llen(QUEUE) - before, time.monotonic() - began
    assert seconds - 2 <= fired <= seconds + 1, f"{fired} fires in {seconds:.1f} s"

    first.kill_tree()
    eventually(lambda: cluster.leader("beat")[1] == epoch + 1, within=5.5, saying="the second beat leads")
    count = broker.llen(QUEUE)
    eventually(lambda: broker.llen(QUEUE) >= count + 2, within=6, saying="the second beat fires")
