from __future__ import annotations

import pytest

from orchestrator.errors import RunFinal
from orchestrator.models import JobRun, Transition
from orchestrator.services.attempts import NotClaimed, claim_task_run
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from tests.support.factories import age, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, Broker, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_running_tasks_finish_and_nothing_further_starts() -> None:
    run = run_of("a -> b")
    attempt = claim(run, "a")

    pause_run(run.pk, by="ada", reason="release")
    settle(attempt)

    assert states_of(run) == {"a": "succeeded", "b": "ready"}
    assert claim_task_run(task_of(run, "b").pk, worker="w") is NotClaimed.NOT_NOW


def test_resume_publishes_what_is_ready_afresh(broker: Broker) -> None:
    run = run_of("a, b -> c")
    run_task(run, "a")
    pause_run(run.pk, by="ada")
    age(run, seconds=3600)
    broker.published.clear()

    resume_run(run.pk, by="ada")

    assert broker.hinted() == [task_of(run, "b").pk]
    broker.waiting.clear()
    broker.published.clear()
    heal()
    assert broker.published == [], "the fresh hint is not lost yet"


def test_the_reconciler_leaves_a_paused_run_alone(broker: Broker) -> None:
    run = run_of("a, b; b: attempts=2 delay=5")
    run_task(run, "b", FAILURE)
    pause_run(run.pk, by="ada")
    age(run, seconds=3600)
    broker.waiting.clear()
    broker.published.clear()

    heal()

    assert broker.published == []
    assert states_of(run) == {"a": "ready", "b": "retry_waiting"}


def test_pausing_and_resuming_twice_changes_nothing(broker: Broker) -> None:
    run = run_of("a")
    pause_run(run.pk, by="ada", reason="first")
    count = Transition.objects.count()

    assert pause_run(run.pk, by="bob", reason="second").pause_reason == "first"
    assert Transition.objects.count() == count

    resume_run(run.pk, by="ada")
    count = Transition.objects.count()
    broker.published.clear()
    resume_run(run.pk, by="bob")
    assert Transition.objects.count() == count
    assert broker.published == []


def test_a_paused_run_can_be_cancelled() -> None:
    run = run_of("a")
    pause_run(run.pk, by="ada")

    cancel_run(run.pk, by="ada")

    assert state_of(run) == "cancelled"


def test_a_run_that_has_ended_can_be_neither_paused_nor_resumed() -> None:
    run = run_of("a")
    run_task(run, "a")

    with pytest.raises(RunFinal):
        pause_run(run.pk, by="ada")
    with pytest.raises(RunFinal):
        resume_run(run.pk, by="ada")
    assert JobRun.objects.get(pk=run.pk).paused_at is None


def test_a_paused_run_may_end_with_its_last_running_task() -> None:
    run = run_of("a")
    attempt = claim(run, "a")
    pause_run(run.pk, by="ada")

    settle(attempt)

    assert state_of(run) == "succeeded"
