from __future__ import annotations

import pytest

from orchestrator.errors import RunFinal, UnknownRun
from orchestrator.models import TaskRun, Transition
from orchestrator.services.runs import cancel_run
from tests.support.factories import age, job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, Broker, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_a_run_in_which_nothing_runs_ends_at_once() -> None:
    run = run_of("a -> b")

    cancelled = cancel_run(run.pk, by="ada", reason="wrong day")

    assert (cancelled.state, cancelled.reason) == ("cancelled", "wrong day")
    assert states_of(run) == {"a": "cancelled", "b": "cancelled"}
    fact = Transition.objects.filter(subject="run", subject_id=run.pk).latest("id")
    assert (fact.from_state, fact.to_state, fact.reason, fact.cause, fact.by) == (
        "running", "cancelled", "wrong day", "cancel", "ada",
    )  # fmt: skip


def test_a_running_attempt_is_asked_to_stop_and_the_run_ends_with_it() -> None:
    run = run_of("a, b -> c")
    attempt = claim(run, "a")

    cancel_run(run.pk, by="ada", reason="wrong day")
    assert state_of(run) == "running"
    assert states_of(run) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert task_of(run, "a").stop_reason == "wrong day"

    settle(attempt)
    assert state_of(run) == "cancelled"


def test_cancelling_twice_changes_nothing() -> None:
    run = run_of("a, b")
    attempt = claim(run, "a")
    cancel_run(run.pk, by="ada", reason="first")
    before = (list(TaskRun.objects.values()), Transition.objects.count())

    assert cancel_run(run.pk, by="bob", reason="second").stop_reason == "first"
    assert (list(TaskRun.objects.values()), Transition.objects.count()) == before

    settle(attempt)
    assert cancel_run(run.pk, by="bob").state == "cancelled"


def test_a_run_that_has_ended_otherwise_cannot_be_cancelled() -> None:
    run = run_of("a")
    run_task(run, "a")

    with pytest.raises(RunFinal, match="already succeeded"):
        cancel_run(run.pk, by="ada")
    with pytest.raises(UnknownRun):
        cancel_run(2**40, by="ada")


def test_a_pending_run_is_cancelled_and_its_place_is_free() -> None:
    job = job_of("a", limit=1)
    first, second, third = (run_of(job) for _ in range(3))

    cancel_run(second.pk, by="ada")
    run_task(first, "a")

    assert [state_of(run) for run in (second, third)] == ["cancelled", "running"]


def test_a_cancelled_run_lets_the_next_one_in() -> None:
    job = job_of("a", limit=1)
    first, second = run_of(job), run_of(job)

    cancel_run(first.pk, by="ada")

    assert state_of(second) == "running"


def test_a_task_that_waits_for_its_retry_is_cancelled() -> None:
    run = run_of("a; a: attempts=3")
    run_task(run, "a", FAILURE)

    cancel_run(run.pk, by="ada")

    assert states_of(run) == {"a": "cancelled"}


def test_a_vanished_worker_ends_cancelled_and_is_not_repeated() -> None:
    run = run_of("a; a: idempotent")
    claim(run, "a")
    cancel_run(run.pk, by="ada", reason="wrong day")
    age(run, seconds=20)

    heal()

    assert states_of(run) == {"a": "cancelled"}
    run.refresh_from_db()
    assert (run.state, run.reason) == ("cancelled", "wrong day")


def test_everything_that_ended_is_planned_in_the_end(broker: Broker) -> None:
    run = run_of("p*4 -> end; q -> end")
    run_task(run, "p_1")
    attempt = claim(run, "p_2")
    cancel_run(run.pk, by="ada")
    settle(attempt)

    age(run, seconds=6)
    heal()

    assert state_of(run) == "cancelled"
    assert not TaskRun.objects.filter(run=run, planned_at=None).exists()
