from __future__ import annotations

import pytest
from django.utils import timezone

from orchestrator.ledger.claims import NotClaimed, claim, recover, renew
from orchestrator.models import Attempt, TaskRun, Transition
from orchestrator.services import attempts
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from orchestrator.states import TaskState
from tests.support import simulation
from tests.support.factories import age, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, Broker, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_a_claim_takes_a_ready_task_under_a_lease_and_a_new_token() -> None:
    run = run_of("extract -> load")

    claimed = simulation.claim(run, "extract", worker="w1")

    row = task_of(run, "extract")
    assert row.state == TaskState.RUNNING
    assert (row.fencing_token, row.attempt_count, row.worker) == (claimed.token, 1, "w1")
    assert row.lease_until > timezone.now()
    attempt = Attempt.objects.get(task_run=row)
    assert (attempt.state, attempt.number, attempt.token, attempt.worker) == ("running", 1, claimed.token, "w1")
    fact = Transition.objects.filter(subject="task_run", subject_id=row.pk).latest("id")
    assert (fact.from_state, fact.to_state, fact.cause, fact.by) == ("ready", "running", "claim", "w1")


def test_a_second_claim_finds_nothing_to_do_and_changes_nothing() -> None:
    run = run_of("extract")
    first = simulation.claim(run, "extract")

    assert claim(task_run_id=first.task_run_id, worker="w2") is NotClaimed.NOT_NOW

    assert task_of(run, "extract").worker == simulation.WORKER
    assert Attempt.objects.count() == 1


def test_a_waiting_task_cannot_be_claimed_early() -> None:
    run = run_of("extract -> load")

    assert claim(task_run_id=task_of(run, "load").pk, worker="w") is NotClaimed.NOT_NOW


def test_a_message_for_a_final_task_lets_chain_and_chord_go_on() -> None:
    run = run_of("extract -> load")
    run_task(run, "extract")

    assert claim(task_run_id=task_of(run, "extract").pk, worker="w") is NotClaimed.OVER
    assert claim(task_run_id=2**40, worker="w") is NotClaimed.OVER, "a task run that is gone"


def test_a_paused_run_refuses_claims_until_it_is_resumed() -> None:
    run = run_of("extract")
    pause_run(run.pk, by="ada")
    assert claim(task_run_id=task_of(run, "extract").pk, worker="w") is NotClaimed.NOT_NOW

    resume_run(run.pk, by="ada")

    simulation.claim(run, "extract")


def test_a_cancelled_run_is_over_for_its_late_messages() -> None:
    run = run_of("extract -> load")
    cancel_run(run.pk, by="ada")

    assert claim(task_run_id=task_of(run, "extract").pk, worker="w") is NotClaimed.OVER


def test_a_stopping_run_starts_no_further_task() -> None:
    run = run_of("a, b")
    simulation.claim(run, "a")
    cancel_run(run.pk, by="ada")

    assert claim(task_run_id=task_of(run, "b").pk, worker="w") is NotClaimed.OVER
    assert states_of(run) == {"a": "running", "b": "cancelled"}


def test_a_retry_is_claimed_once_it_is_due_and_not_before() -> None:
    run = run_of("load; load: attempts=2 delay=60")
    assert run_task(run, "load", FAILURE) is False
    assert claim(task_run_id=task_of(run, "load").pk, worker="w") is NotClaimed.NOT_NOW

    age(run, seconds=61)

    again = simulation.claim(run, "load")
    assert (again.number, again.token) == (2, 2)


def test_a_claim_never_takes_over_an_expired_lease() -> None:
    run = run_of("load; load: idempotent")
    simulation.claim(run, "load")
    age(run, seconds=3600)

    assert claim(task_run_id=task_of(run, "load").pk, worker="w2") is NotClaimed.NOT_NOW


def test_a_renewal_keeps_own_leases_and_names_those_that_moved_on() -> None:
    run = run_of("a, b, c")
    a, b, c = (simulation.claim(run, name) for name in "abc")
    settle(c)
    age(run, seconds=10)
    before = task_of(run, "a").lease_until

    held = renew({a.task_run_id: a.token, b.task_run_id: b.token + 1, c.task_run_id: c.token})

    assert held == {a.task_run_id: None}
    assert task_of(run, "a").lease_until > before


def test_a_renewal_tells_that_a_stop_is_requested_and_why() -> None:
    run = run_of("a")
    a = simulation.claim(run, "a")
    cancel_run(run.pk, by="ada", reason="wrong day")

    assert renew({a.task_run_id: a.token}) == {a.task_run_id: "wrong day"}


def test_a_worker_finds_its_own_claim_again_and_nobody_elses() -> None:
    run = run_of("a")
    claimed = simulation.claim(run, "a", worker="w1")

    found = recover(task_run_id=claimed.task_run_id, worker="w1")

    assert found is not None
    assert (found.token, found.attempt_id, found.number) == (claimed.token, claimed.attempt_id, claimed.number)
    assert recover(task_run_id=claimed.task_run_id, worker="w2") is None
    settle(claimed)
    assert recover(task_run_id=claimed.task_run_id, worker="w1") is None


def test_the_deadline_of_an_attempt_counts_from_its_claim() -> None:
    run = run_of("a; a: timeout=90")
    simulation.claim(run, "a")

    row = task_of(run, "a")
    assert (row.deadline_at - row.started_at).total_seconds() == pytest.approx(90, abs=0.01)


def test_a_queue_wait_is_measured_from_ready_and_from_due() -> None:
    run = run_of("a; a: attempts=2 delay=60")
    age(run, seconds=5)
    first = simulation.claim(run, "a")
    assert first.waited_seconds == pytest.approx(5, abs=2)
    settle(first, FAILURE)
    age(run, seconds=63)

    assert simulation.claim(run, "a").waited_seconds == pytest.approx(3, abs=2)


def test_task_runs_of_other_runs_are_left_alone(broker: Broker) -> None:
    one = run_of("a -> b")
    other = run_of(one.job)

    run_task(one, "a")
    run_task(one, "b")

    assert state_of(one) == "succeeded"
    assert states_of(other) == {"a": "ready", "b": "waiting"}
    assert TaskRun.objects.filter(run=other, fencing_token__gt=0).count() == 0
    assert attempts.claim_task_run(task_of(other, "b").pk, worker="w") is NotClaimed.NOT_NOW
