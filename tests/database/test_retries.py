from __future__ import annotations

import pytest

from orchestrator.models import Attempt
from orchestrator.services.attempts import AttemptEnd, Claimed
from tests.support.factories import age, moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import (
    FAILURE,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    Broker,
    Simulation,
    claim,
    heal,
    run_task,
    settle,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_a_failed_attempt_is_repeated_when_due_and_each_attempt_is_kept(broker: Broker) -> None:
    run = run_of("load; load: attempts=3 delay=30")
    run_task(run, "load", FAILURE)
    assert states_of(run) == {"load": "retry_waiting"}
    broker.published.clear()
    heal()
    assert broker.published == [], "not due yet"

    age(run, seconds=31)
    heal()
    assert broker.hinted() == [task_of(run, "load").pk]
    run_task(run, "load", FAILURE)
    age(run, seconds=31)
    run_task(run, "load", SUCCESS)

    assert state_of(run) == "succeeded"
    assert list(Attempt.objects.order_by("number").values_list("number", "state")) == [
        (1, "failed"),
        (2, "failed"),
        (3, "succeeded"),
    ]
    assert moves_of(run, "load") == [
        "waiting", "ready", "running", "retry_waiting", "running", "retry_waiting", "running", "succeeded",
    ]  # fmt: skip


def test_the_last_attempt_fails_the_task_and_says_which_it_was() -> None:
    run = run_of("load; load: attempts=2 delay=0")
    run_task(run, "load", FAILURE)
    run_task(run, "load", FAILURE)

    assert states_of(run) == {"load": "failed"}
    assert task_of(run, "load").reason == "exit code 1 (attempt 2 of 2)"


@pytest.mark.parametrize(("end", "state"), [(TIMEOUT, "timed_out"), (UNKNOWN, "failed")])
def test_what_nobody_saw_end_is_repeated_only_under_a_name_and_idempotent(end: AttemptEnd, state: str) -> None:
    plain = run_of("load; load: attempts=3")
    run_task(plain, "load", end)
    assert states_of(plain) == {"load": state}

    named = run_of("load; load: attempts=3 on=timeout,unknown idempotent")
    run_task(named, "load", end)
    assert states_of(named) == {"load": "retry_waiting"}


def test_a_due_retry_is_published_once_until_its_hint_counts_as_lost(broker: Broker) -> None:
    run = run_of("load; load: attempts=2 delay=5")
    run_task(run, "load", FAILURE)
    age(run, seconds=6)
    broker.published.clear()

    heal()
    heal()
    assert len(broker.published) == 1

    age(run, seconds=20)
    heal()
    assert len(broker.published) == 2
    age(run, seconds=20)
    heal()
    assert len(broker.published) == 2, "the pause doubles: the lane may only be long"
    age(run, seconds=20)
    heal()
    assert len(broker.published) == 3


def test_a_chord_waits_for_the_retry_of_its_header_and_counts_it_once(broker: Broker) -> None:
    run = run_of("p*4 -> end; p_3: attempts=2 delay=5")
    third = task_of(run, "p_3").pk
    failed: list[int] = []

    def flaky(claimed: Claimed) -> AttemptEnd:
        if claimed.task_run_id == third and not failed:
            failed.append(third)
            return FAILURE
        return SUCCESS

    simulation = Simulation(broker, flaky)
    simulation.drain()
    assert states_of(run)["end"] == "waiting"

    age(run, seconds=6)
    heal()
    simulation.drain()

    assert state_of(run) == "succeeded"
    assert [len(parts) for parts in broker.parts.values()] == [4]


def test_a_chain_stops_at_a_retry_and_goes_on_after_it(broker: Broker) -> None:
    run = run_of("a -> b -> c; b: attempts=2 delay=5")
    b = task_of(run, "b").pk
    tries: list[int] = []

    def flaky(claimed: Claimed) -> AttemptEnd:
        if claimed.task_run_id == b:
            tries.append(b)
        return FAILURE if tries == [b] and claimed.task_run_id == b else SUCCESS

    simulation = Simulation(broker, flaky)
    simulation.drain()
    assert states_of(run) == {"a": "succeeded", "b": "retry_waiting", "c": "waiting"}

    age(run, seconds=6)
    heal()
    simulation.drain()

    assert state_of(run) == "succeeded"


def test_a_retry_gives_its_locks_back_and_asks_for_them_again(broker: Broker) -> None:
    first = run_of("load; load: locks=warehouse attempts=2 delay=5")
    second = run_of("load; load: locks=warehouse")
    claimed = claim(first, "load")
    broker.published.clear()

    settle(claimed, FAILURE)
    assert broker.hinted() == [task_of(second, "load").pk]

    age(first, seconds=6)
    heal()
    assert states_of(first) == {"load": "ready"}, "due, and waits for its lock"
    run_task(second, "load")
    run_task(first, "load")
    assert state_of(first) == "succeeded"
