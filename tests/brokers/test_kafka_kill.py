"""Listeners of a real Kafka, killed, frozen and moved about: nothing acknowledged is missing, nothing happens twice.

`SOAK=1` repeats each crash point 20 times and reads 60,000 messages with three consumers.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka_stage import SESSION_MS, Load, Stage, launch_everything, load
from tests.support.waiting import eventually
from triggers.models import Event, UncleanExit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill, pytest.mark.postgresql]

SOAK = bool(os.environ.get("SOAK"))
MESSAGES = 60_000 if SOAK else 15_000
POINTS = ("after_poll", "decoded", "in_transaction", "after_transaction", "after_acknowledge", "during_launch")


@pytest.fixture
def stage(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(kafka_bootstrap, tmp_path, batch_size=50, max_poll_records=50)
    yield stage
    stage.close()


@pytest.mark.parametrize("repeat", range(20 if SOAK else 1))
@pytest.mark.parametrize("point", POINTS)
def test_a_listener_that_is_killed_at_any_point_loses_and_doubles_nothing(
    point: str, repeat: int, stage: Stage
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = load(600, chance)
    stage.produce(expected.messages)

    # Launching by hints, so that a listener can die between two of them.
    killed = stage.listener(crash=f"{point}:{chance.randint(1, 6)}", environ={"UPBEAT_LAUNCH_INLINE": "0"})
    eventually(lambda: not killed.running, within=60, saying=f"killed: {killed.output()[-2000:]}")
    assert killed.exit_code == -signal.SIGKILL, killed.output()[-3000:]
    survivor = stage.listener()
    stage.drain()

    stage.check(expected)
    launch_everything()
    survivor.stop()
    assert survivor.exit_code == 0
    # Those of the dead are gone too: all that it may have read has been proven.
    assert not UncleanExit.objects.exists()


def test_three_consumers_that_are_frozen_ended_and_killed_read_everything_once(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    stage = Stage(kafka_bootstrap, tmp_path, partitions=12)
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    expected = load(MESSAGES, random.Random(seed))
    try:
        _produce_slowly(stage, expected, seconds=MESSAGES / 1500)
        first, second, third = (stage.listener() for _ in range(3))
        eventually(lambda: Event.objects.count() > MESSAGES // 20, within=60, saying="reading has begun")

        first.pause()
        time.sleep(SESSION_MS / 1000 + 1.5)
        first.resume()
        second.terminate()
        stage.listener()
        eventually(lambda: Event.objects.count() > MESSAGES // 4, within=60)
        third.kill()
        stage.listener()
        stage.drain(within=240 if SOAK else 120)

        stage.check(expected)
        eventually(lambda: not second.running, within=20)
        assert (second.exit_code, third.exit_code) == (0, -signal.SIGKILL)
        assert first.running
    finally:
        stage.close()


def _produce_slowly(stage: Stage, expected: Load, *, seconds: float) -> None:
    """A third at once, the rest in a thread, so that members come and go while messages arrive."""
    third = len(expected.messages) // 3
    stage.produce(expected.messages[:third])

    def rest() -> None:
        slices = 20
        size = -(-(len(expected.messages) - third) // slices)
        for start in range(third, len(expected.messages), size):
            stage.produce(expected.messages[start : start + size])
            time.sleep(seconds / slices)

    thread = threading.Thread(target=rest)
    thread.start()
    # Whoever waits until everything is committed must not find a moment at which the rest was not yet sent.
    drain = stage.drain

    def drained(*, within: float = 60.0) -> None:
        thread.join(within)
        drain(within=within)

    stage.drain = drained  # type: ignore[method-assign]
