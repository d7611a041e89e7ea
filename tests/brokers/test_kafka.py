"""The Kafka listener against a real Kafka: the whole way, and what happens at its edges."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka_stage import Stage, launch_everything, load
from triggers.models import Listener

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.postgresql]


@pytest.fixture
def stage(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(kafka_bootstrap, tmp_path)
    yield stage
    stage.close()


def test_messages_become_events_runs_and_dead_letters_and_are_committed(stage: Stage) -> None:
    expected = load(2000, random.Random(1))
    stage.produce(expected.messages)

    listener = stage.listener()
    stage.drain()

    stage.check(expected)
    launch_everything()
    assert Listener.objects.get().state == "ok"
    listener.stop()
    assert listener.exit_code == 0
    assert not Listener.objects.exists()
