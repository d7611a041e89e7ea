"""After the transport was told: what is launched here, what is asked for, what is left to the reconciler; when to stop
reading."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import OperationalError

from orchestrator.conf import Options, options
from orchestrator.models import JobRun
from orchestrator.services.runs import queued_count
from tests.support.factories import job_of, run_of
from tests.support.waiting import eventually
from triggers.ingest.launcher import HINTED, Launcher
from triggers.ingest.stall import Backpressure


class Launches:
    """What was launched here and what was asked for, instead of ledger and broker; may fail or hang as they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launched: list[list[int]] = []
        self.hinted: list[list[int]] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        monkeypatch.setattr("orchestrator.services.runs.launch_runs", self._launch)
        monkeypatch.setattr("orchestrator.services.runs.publish_launch", self._hint)
        monkeypatch.setattr("triggers.ingest.launcher.close_old_connections", lambda: None)

    def _launch(self, run_ids: Sequence[int]) -> int:
        self.open.wait(10)
        if self.error is not None:
            raise self.error
        self.launched.append(list(run_ids))
        return len(run_ids)

    def _hint(self, run_ids: Sequence[int]) -> bool:
        self.hinted.append(list(run_ids))
        return self.error is None


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    return Launches(monkeypatch)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 500, 501, 1200])
def test_batches_of_every_size_are_launched_whole_and_once(launches: Launches, count: int):
    launcher = Launcher()
    ids = list(range(count))

    assert launcher.offer(ids)
    launcher.close()

    assert [id for batch in [*launches.launched, *launches.hinted] for id in batch] == ids
    assert bool(launches.hinted) == (count > options().launch_inline)
    assert all(len(batch) <= HINTED for batch in launches.hinted)


def test_offering_never_waits_for_a_broker_that_swallows_messages(launches: Launches):
    launches.open.clear()
    launcher = Launcher()

    began = time.monotonic()
    taken = [launcher.offer([number]) for number in range(1000)]
    seconds = time.monotonic() - began

    assert seconds < 2
    assert taken[0]
    assert not taken[-1]
    launches.open.set()
    launcher.close()
    assert sum(map(len, launches.launched)) == sum(taken)


def test_after_a_failure_nothing_is_tried_for_ten_seconds(launches: Launches):
    moment = [1000.0]
    launcher = Launcher(clock=lambda: moment[0])
    launches.error = OperationalError("the pool is empty")
    launcher.offer([1])
    eventually(lambda: not launcher.offer([2]), within=5)
    launches.error = None
    moment[0] += 9
    assert not launcher.offer([3])

    moment[0] += 2

    assert launcher.offer([4])
    launcher.close()
    assert launches.launched == [[4]]


def test_a_broker_that_takes_no_hint_opens_the_circuit_too(launches: Launches):
    launcher = Launcher()
    launches.error = RuntimeError()

    launcher.offer(list(range(600)))

    eventually(lambda: not launcher.offer([1]), within=5)
    launcher.close()
    assert len(launches.hinted) == 1


def test_nothing_to_launch_starts_no_thread():
    launcher = Launcher()

    assert launcher.offer([])
    launcher.close()

    assert launcher._thread is None


def test_runs_that_are_offered_one_by_one_are_launched_together_in_their_order(launches: Launches):
    """A hundred webhooks a second offer a hundred times; a launch for each would fall behind."""
    launcher = Launcher()
    launches.open.clear()
    assert launcher.offer([1])
    eventually(lambda: launcher._queue.empty())

    assert all(launcher.offer([number]) for number in (3, 2, *range(4, 300)))
    launches.open.set()

    eventually(lambda: sum(map(len, launches.launched)) == 299)
    launcher.close()
    assert launches.launched[0] == [1]
    assert launches.launched[1][:2] == [2, 3]
    assert len(launches.launched) <= 2 + 299 // options().launch_inline
    assert not launches.hinted


# --- back-pressure


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_stops_at_its_limit_goes_on_at_half_of_it():
    clock, count = Clock(), [20_000]
    pressure = Backpressure(unlaunched=lambda: count[0], clock=clock)

    def reason_at(waiting: int) -> bool:
        count[0] = waiting
        clock.now += 1
        return (pressure.reason() or "").startswith("unlaunched")

    assert [reason_at(n) for n in (20_000, 20_001, 15_000, 10_001, 10_000, 15_000)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


def test_more_pending_runs_than_allowed_stop_the_reading_until_half_of_them_are_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("triggers.ingest.stall.options", lambda: Options({"UPBEAT_QUEUED_LIMIT": "100"}))
    clock, count = Clock(), [100]
    pressure = Backpressure(unlaunched=lambda: 0, queued=lambda most: min(count[0], most + 1), clock=clock)

    def reason_at(pending: int) -> bool:
        count[0] = pending
        clock.now += 1
        return (pressure.reason() or "").startswith("queued: more than")

    assert [reason_at(n) for n in (100, 101, 51, 50, 51)] == [False, True, True, False, False]


@pytest.mark.django_db
def test_pending_runs_are_counted_no_further_than_asked():
    job = job_of("a")
    for _ in range(3):
        JobRun.objects.filter(pk=run_of(job).pk).update(state="pending")

    assert [queued_count(most) for most in (0, 1, 2, 3)] == [1, 2, 3, 3]


def test_a_nearly_full_disk_of_the_ledger_stops_the_reading_before_a_write_fails():
    clock, free = Clock(), [63 * 2**20]
    pressure = Backpressure(unlaunched=lambda: 0, free=lambda: free[0], clock=clock)
    assert (pressure.reason() or "").startswith("disk_low: 63 MiB are free")

    free[0], clock.now = 127 * 2**20, clock.now + 1
    assert pressure.reason() is not None
    free[0], clock.now = 128 * 2**20, clock.now + 1
    assert pressure.reason() is None


def test_the_database_is_asked_once_a_second_at_most():
    clock, asked = Clock(), [0]

    def count() -> int:
        asked[0] += 1
        return 0

    pressure = Backpressure(unlaunched=count, clock=clock)
    for _ in range(100):
        pressure.reason()
        clock.now += 0.1

    assert asked[0] <= 11


def test_writes_that_take_more_than_two_seconds_stop_the_reading_until_they_take_one():
    clock = Clock()
    pressure = Backpressure(unlaunched=lambda: 0, clock=clock)
    for _ in range(10):
        pressure.wrote(3.0)
    assert (pressure.reason() or "").startswith("database_slow")

    clock.now += 31

    assert pressure.reason() is None
    for _ in range(10):
        pressure.wrote(0.9)
    clock.now += 1
    assert pressure.reason() is None


def test_a_database_that_does_not_answer_changes_no_mind():
    clock = Clock()
    answers: list[Any] = [30_000]

    def count() -> int:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return int(answers[0])

    pressure = Backpressure(unlaunched=count, clock=clock)
    assert pressure.reason() is not None
    answers[0] = OperationalError("away")
    clock.now += 1
    assert pressure.reason() is not None
    answers[0] = 0
    clock.now += 1
    assert pressure.reason() is None
