"""A connection that dies in COMMIT: the transaction is written, and whoever wrote it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db import OperationalError, connections

from orchestrator.models import TaskRun
from tests.support.factories import job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, SUCCESS, Broker, claim, run_task, settle

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


@pytest.fixture
def die_in_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the next COMMIT be carried out and its answer be lost."""
    wrapper = connections["default"]
    commit = wrapper.commit
    losses: Iterator[bool] = iter(())

    def lossy() -> None:
        commit()
        if next(losses, False):
            raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(wrapper, "commit", lossy)

    def once() -> None:
        nonlocal losses
        losses = iter([True])

    return once


def test_what_an_outcome_closed_is_advanced_by_its_repetition(die_in_commit: Callable[[], None]) -> None:
    run = run_of("a -> b -> c -> d")
    claimed = claim(run, "a")
    die_in_commit()
    with pytest.raises(OperationalError):
        settle(claimed, FAILURE)
    assert states_of(run) == {"a": "failed", "b": "upstream_failed", "c": "waiting", "d": "waiting"}

    assert settle(claimed, FAILURE) is True

    assert set(states_of(run).values()) == {"failed", "upstream_failed"}
    assert state_of(run) == "failed"


def test_what_starts_behind_the_closed_tasks_is_published_at_once(
    broker: Broker, die_in_commit: Callable[[], None]
) -> None:
    run = run_of("a -> b -[done]-> alarm")
    claimed = claim(run, "a")
    die_in_commit()
    with pytest.raises(OperationalError):
        settle(claimed, FAILURE)
    broker.published.clear()

    settle(claimed, FAILURE)

    assert states_of(run)["alarm"] == "ready"
    assert broker.hinted() == [task_of(run, "alarm").pk]


def test_the_headers_of_a_chord_that_still_runs_are_left_to_their_own_plan(die_in_commit: Callable[[], None]) -> None:
    run = run_of("s -> p*4 -> end; a -> b -> c")
    run_task(run, "s")
    for number in (1, 2, 3):
        run_task(run, f"p_{number}")
    claimed = claim(run, "a")
    die_in_commit()
    with pytest.raises(OperationalError):
        settle(claimed, FAILURE)

    settle(claimed, FAILURE)

    assert states_of(run)["c"] == "upstream_failed"
    unplanned = TaskRun.objects.filter(run=run, ended_at__isnull=False, planned_at=None)
    assert sorted(unplanned.values_list("task__name", flat=True)) == ["p_1", "p_2", "p_3"]


def test_the_next_run_of_a_job_starts_though_the_end_of_the_last_was_in_doubt(
    die_in_commit: Callable[[], None],
) -> None:
    job = job_of("a", limit=1)
    first, second = run_of(job), run_of(job)
    assert state_of(second) == "pending"
    claimed = claim(first, "a")
    die_in_commit()
    with pytest.raises(OperationalError):
        settle(claimed, SUCCESS)
    assert (state_of(first), state_of(second)) == ("succeeded", "pending")

    settle(claimed, SUCCESS)

    assert state_of(second) == "running"
