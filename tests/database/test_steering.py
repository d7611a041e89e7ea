"""Skip and mark: a person ends a task that has not started."""

from __future__ import annotations

import pytest

from orchestrator.errors import RunFinal, RunNotRunning, TaskFinal, TaskIsRunning, UnknownTaskRun
from orchestrator.models import Attempt, JobRun, LockRequest, TaskRun, Transition
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from orchestrator.services.steering import mark_task, skip_task
from tests.support.factories import age, job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import (
    FAILURE,
    PERMANENT,
    Broker,
    Simulation,
    claim,
    deferred,
    heal,
    result_of,
    run_task,
    settle,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def skip(run: JobRun, name: str, **more: str) -> TaskRun:
    return skip_task(task_of(run, name).pk, **{"by": "ada", **more})


def mark(run: JobRun, name: str, **more: str) -> TaskRun:
    return mark_task(task_of(run, name).pk, **{"by": "ada", **more})


def test_a_skipped_task_closes_what_needs_its_success_and_fails_nothing() -> None:
    run = run_of("a -> b -> c; b -[done]-> d; b -[skipped]-> e; a: allow_failure")
    run_task(run, "a")

    row = skip(run, "b", reason="not today")

    assert (row.state, row.reason) == ("skipped", "skipped by ada: not today")
    assert states_of(run) == {"a": "succeeded", "b": "skipped", "c": "skipped", "d": "ready", "e": "ready"}
    fact = Transition.objects.filter(subject="task_run", subject_id=row.pk).latest("id")
    assert (fact.from_state, fact.to_state, fact.cause, fact.by) == ("ready", "skipped", "skip", "ada")
    run_task(run, "d")
    run_task(run, "e")
    assert state_of(run) == "succeeded"


def test_a_marked_task_lets_what_follows_go_on(broker: Broker) -> None:
    run = run_of("a -> b -> c")
    broker.published.clear()

    row = mark(run, "a", reason="done by hand")

    assert (row.state, row.reason) == ("succeeded", "marked as succeeded by ada: done by hand")
    assert states_of(run)["b"] == "ready"
    assert broker.hinted()[0] == task_of(run, "b").pk
    Simulation(broker).drain()
    assert state_of(run) == "succeeded"
    assert task_of(run, "a").attempt_count == 0


@pytest.mark.parametrize("command", [skip, mark])
def test_the_last_open_task_ends_the_run_and_lets_the_next_one_in(command: object) -> None:
    job = job_of("a", limit=1)
    first, second = run_of(job), run_of(job)

    command(first, "a")  # type: ignore[operator]  # one of the two above

    assert state_of(first) == "succeeded"
    assert (state_of(second), states_of(second)) == ("running", {"a": "ready"})


def test_a_failing_task_that_waits_for_its_retry_can_be_skipped() -> None:
    run = run_of("a -> b; a -[failed]-> c; a: attempts=3 delay=60")
    run_task(run, "a", FAILURE)

    skip(run, "a")

    assert states_of(run) == {"a": "skipped", "b": "skipped", "c": "skipped"}
    assert state_of(run) == "succeeded"
    age(run, seconds=600)
    heal()
    assert states_of(run)["a"] == "skipped"


def test_a_waiting_task_can_be_marked_before_its_upstream_has_ended() -> None:
    run = run_of("a -> b -> c")
    attempt = claim(run, "a")

    mark(run, "b")
    assert states_of(run) == {"a": "running", "b": "succeeded", "c": "ready"}
    settle(attempt, PERMANENT)

    assert states_of(run) == {"a": "failed", "b": "succeeded", "c": "ready"}
    run_task(run, "c")
    assert state_of(run) == "failed"


def test_a_condition_on_the_result_of_a_marked_task_cannot_be_evaluated() -> None:
    run = run_of("a -[when: results.a.n > 5]-> b")

    mark(run, "a")

    assert states_of(run) == {"a": "succeeded", "b": "failed"}
    assert "could not be evaluated" in task_of(run, "b").reason


@pytest.mark.parametrize(("command", "end"), [(skip, "skipped"), (mark, "succeeded")])
def test_a_steered_header_does_not_hold_up_its_chord(broker: Broker, command: object, end: str) -> None:
    run = run_of("start -> part*4 -> end; part_2: attempts=2 delay=60")
    simulation = Simulation(broker, lambda claimed: FAILURE if claimed.task_run_id == failing else result_of(1))
    failing = task_of(run, "part_2").pk
    simulation.drain()
    assert TaskRun.objects.filter(run=run, fragment__isnull=False).count() == 4
    assert states_of(run)["part_2"] == "retry_waiting"

    command(run, "part_2")  # type: ignore[operator]  # one of the two above
    simulation.drain()

    assert (states_of(run)["part_2"], states_of(run)["end"]) == (end, end)
    assert state_of(run) == "succeeded"
    assert not TaskRun.objects.filter(run=run, planned_at=None).exists()


def test_the_locks_of_a_skipped_task_go_to_the_next(broker: Broker) -> None:
    job = job_of("a; a: locks=warehouse")
    first, second = run_of(job), run_of(job)
    broker.published.clear()

    skip(first, "a")

    assert broker.hinted() == [task_of(second, "a").pk]
    assert LockRequest.objects.get().task_run.run_id == second.pk


@pytest.mark.parametrize("command", [skip, lambda run, name: cancel_run(run.pk, by="ada")], ids=["skip", "cancel"])
def test_the_lock_of_a_vanished_worker_is_not_given_on_before_its_process_has_ended(command: object) -> None:
    job = job_of("a; a: locks=warehouse idempotent")
    first, second = run_of(job), run_of(job)
    claim(first, "a")
    age(first, seconds=16)
    heal()
    LockRequest.objects.filter(task_run__run=first).update(release_at=task_of(first, "a").due_at)
    assert states_of(first) == {"a": "retry_waiting"}

    command(first, "a")  # type: ignore[operator]  # one of the two above

    assert not LockRequest.objects.filter(task_run__run=second, granted_at__isnull=False).exists()
    age(first, seconds=11)
    heal()
    assert LockRequest.objects.get(granted_at__isnull=False).task_run.run_id == second.pk


def test_a_paused_run_can_be_steered_and_stays_paused(broker: Broker) -> None:
    run = run_of("a -> b -> c")
    pause_run(run.pk, by="ada")

    mark(run, "a")
    Simulation(broker).drain()

    assert states_of(run) == {"a": "succeeded", "b": "ready", "c": "waiting"}
    resume_run(run.pk, by="ada")
    Simulation(broker).drain()
    assert state_of(run) == "succeeded"


@pytest.mark.parametrize(("command", "state"), [(skip, "skipped"), (mark, "succeeded")])
def test_a_deferred_attempt_ends_with_its_task(broker: Broker, command: object, state: str) -> None:
    job = job_of("a -> b; a: locks=warehouse")
    run, other = run_of(job), run_of(job)
    run_task(run, "a", deferred(3600))
    assert states_of(run)["a"] == "deferred"

    command(run, "a", reason="not today")  # type: ignore[operator]  # one of the two above

    attempt = Attempt.objects.get(task_run=task_of(run, "a"))
    assert (attempt.state, "not today" in attempt.reason) == ("cancelled", True)
    assert attempt.ended_at is not None
    assert task_of(run, "a").state == state
    assert LockRequest.objects.get().task_run.run_id == other.pk
    age(run, seconds=7200)
    heal()
    assert task_of(run, "a").state == state


@pytest.mark.parametrize("command", [skip, mark])
def test_steering_a_task_twice_changes_nothing(command: object) -> None:
    run = run_of("a -> b, c")
    command(run, "a", reason="first")  # type: ignore[operator]
    before = (list(TaskRun.objects.values()), Transition.objects.count())

    command(run, "a", reason="second", by="bob")  # type: ignore[operator]

    assert (list(TaskRun.objects.values()), Transition.objects.count()) == before


def test_what_runs_or_has_ended_is_refused_with_a_clear_word() -> None:
    run = run_of("a -> b -> c; a, d -> e")
    with pytest.raises(UnknownTaskRun):
        skip_task(2**40, by="ada")
    run_task(run, "a")
    attempt = claim(run, "b")
    with pytest.raises(TaskIsRunning, match="b runs"):
        skip(run, "b")
    with pytest.raises(TaskFinal, match="a has already ended succeeded"):
        skip(run, "a")
    cancel_run(run.pk, by="ada")
    with pytest.raises(TaskFinal):
        mark(run, "c")
    settle(attempt)
    assert state_of(run) == "cancelled"
    with pytest.raises(RunFinal, match="already cancelled"):
        mark(run, "c")


def test_a_run_that_is_being_stopped_takes_no_more_orders() -> None:
    run = run_of("a, b")
    claim(run, "a")
    cancel_run(run.pk, by="ada")
    TaskRun.objects.filter(pk=task_of(run, "b").pk).update(state="ready", ended_at=None)

    with pytest.raises(RunNotRunning, match="being stopped"):
        skip(run, "b")
