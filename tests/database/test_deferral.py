"""A deferred attempt waits outside a worker and goes on as the same attempt."""

from __future__ import annotations

import pytest

from orchestrator.errors import StaleToken
from orchestrator.ledger import claims
from orchestrator.ledger.claims import NotClaimed
from orchestrator.models import Attempt, LockRequest, TaskRun, Transition
from orchestrator.services import attempts
from orchestrator.services.attempts import AttemptEnd, Claimed
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from orchestrator.states import TaskState
from tests.support.factories import age, job_of, moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import (
    FAILURE,
    SUCCESS,
    TIMEOUT,
    WORKER,
    Broker,
    Simulation,
    claim,
    deferred,
    ending,
    heal,
    run_task,
    settle,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_a_deferral_leaves_the_attempt_open_without_a_lease() -> None:
    run = run_of("wait -> next")
    claimed = claim(run, "wait")
    deadline = task_of(run, "wait").deadline_at

    assert settle(claimed, deferred(60)) is False

    row = task_of(run, "wait")
    assert (row.state, row.reason, row.lease_until, row.deadline_at) == ("deferred", "waits", None, deadline)
    assert 59 < (row.due_at - row.started_at).total_seconds() < 65
    attempt = Attempt.objects.get()
    assert (attempt.state, attempt.ended_at) == ("running", None)
    assert states_of(run)["next"] == "waiting"


def test_it_goes_on_as_the_same_attempt_once_it_is_due_and_not_before(broker: Broker) -> None:
    run = run_of("wait -> next; wait: timeout=900")
    first = claim(run, "wait", worker="w1")
    settle(first, deferred(60), worker="w1")
    broker.published.clear()
    heal()
    assert broker.published == [], "not due yet"
    assert claims.claim(task_run_id=first.task_run_id, worker="early") is NotClaimed.NOT_NOW

    age(run, seconds=61)
    heal()
    assert broker.hinted() == [first.task_run_id]
    second = claim(run, "wait", worker="w2")

    assert (second.attempt_id, second.number, second.token) == (first.attempt_id, 1, first.token + 1)
    assert (first.elapsed_seconds, second.elapsed_seconds) == (0.0, pytest.approx(61, abs=5))
    assert second.seconds_left == pytest.approx(839, abs=5)
    assert (second.claimed_at - first.claimed_at).total_seconds() >= 0
    attempt = Attempt.objects.get()
    assert (attempt.token, attempt.worker, attempt.state) == (second.token, "w2", "running")
    assert settle(second, SUCCESS, worker="w2") is True
    assert Attempt.objects.get().state == "succeeded"
    assert states_of(run) == {"wait": "succeeded", "next": "ready"}
    assert moves_of(run, "wait") == ["waiting", "ready", "running", "deferred", "running", "succeeded"]


def test_it_may_be_deferred_again_and_again() -> None:
    run = run_of("wait; wait: timeout=900")
    for round_ in range(1, 5):
        claimed = claim(run, "wait")
        assert (claimed.number, claimed.token) == (1, round_)
        settle(claimed, deferred(60))
        age(run, seconds=61)

    run_task(run, "wait")

    assert state_of(run) == "succeeded"
    assert task_of(run, "wait").attempt_count == 1


def test_its_deadline_counts_from_the_first_claim() -> None:
    run = run_of("wait; wait: timeout=900")
    settle(claim(run, "wait"), deferred(60))
    age(run, seconds=61)

    claim(run, "wait")

    row, attempt = task_of(run, "wait"), Attempt.objects.get()
    assert (row.deadline_at - attempt.started_at).total_seconds() == pytest.approx(900, abs=0.01)


def test_what_it_said_before_it_was_deferred_is_stale_afterwards() -> None:
    run = run_of("wait")
    first = claim(run, "wait")
    settle(first, deferred(60))
    with pytest.raises(StaleToken):
        settle(first, SUCCESS)
    age(run, seconds=61)
    second = claim(run, "wait")

    with pytest.raises(StaleToken):
        settle(first, SUCCESS)
    with pytest.raises(StaleToken):
        settle(first, deferred(60))

    assert settle(second) is True


@pytest.mark.parametrize("drawing", ["a", "a -> b", "a*5 -> end", "a; a: locks=warehouse"])
def test_a_deferral_written_twice_changes_nothing(drawing: str) -> None:
    run = run_of(drawing)
    claimed = claim(run, next(iter(states_of(run))))
    settle(claimed, deferred())
    before = (list(TaskRun.objects.values()), list(Attempt.objects.values()), Transition.objects.count())

    assert settle(claimed, deferred()) is False

    assert (list(TaskRun.objects.values()), list(Attempt.objects.values()), Transition.objects.count()) == before


def test_two_messages_continue_it_once() -> None:
    run = run_of("wait")
    settle(claim(run, "wait"), deferred(60))
    age(run, seconds=61)
    claim(run, "wait", worker="w1")

    assert claims.claim(task_run_id=task_of(run, "wait").pk, worker="w2") is NotClaimed.NOT_NOW


def test_a_worker_in_doubt_finds_the_attempt_that_it_continued() -> None:
    run = run_of("wait; wait: timeout=900")
    settle(claim(run, "wait", worker="w1"), deferred(60), worker="w1")
    age(run, seconds=61)
    second = claim(run, "wait", worker="w2")

    found = claims.recover(task_run_id=second.task_run_id, worker="w2")

    assert found is not None
    assert (found.token, found.attempt_id, found.number) == (second.token, second.attempt_id, 1)
    assert found.elapsed_seconds == pytest.approx(61, abs=5)
    assert claims.recover(task_run_id=second.task_run_id, worker="w1") is None


def test_a_retry_after_a_deferral_is_a_new_attempt_with_a_new_deadline() -> None:
    run = run_of("wait; wait: attempts=2 delay=0 timeout=900")
    settle(claim(run, "wait"), deferred(60))
    age(run, seconds=61)
    settle(claim(run, "wait"), FAILURE)

    again = claim(run, "wait")

    assert (again.number, again.elapsed_seconds) == (2, 0.0)
    assert list(Attempt.objects.order_by("number").values_list("state", flat=True)) == ["failed", "running"]


class TestDeadline:
    """The timer ends what no worker watches."""

    def test_a_deferred_attempt_ends_timed_out_at_its_deadline(self, broker: Broker) -> None:
        run = run_of("wait -[failed]-> alarm; wait: timeout=90")
        settle(claim(run, "wait"), deferred(3600))
        assert task_of(run, "wait").due_at == task_of(run, "wait").deadline_at, "looked at then, and not in an hour"
        age(run, seconds=91)
        broker.published.clear()

        assert claims.claim(task_run_id=task_of(run, "wait").pk, worker="late") is NotClaimed.NOT_NOW
        heal()

        row, attempt = task_of(run, "wait"), Attempt.objects.get()
        assert (row.state, row.reason, row.deadline_at) == ("timed_out", "timed out after 90 s", None)
        assert (attempt.state, attempt.failure_kind, attempt.reason) == ("timed_out", "timeout", row.reason)
        assert broker.hinted() == [task_of(run, "alarm").pk], "what follows starts at once"

    def test_the_retry_rule_decides_as_for_any_time_out(self) -> None:
        run = run_of("wait; wait: timeout=90 attempts=2 on=timeout idempotent delay=30 locks=warehouse")
        settle(claim(run, "wait"), deferred(3600))
        age(run, seconds=91)

        heal()

        assert states_of(run) == {"wait": "retry_waiting"}
        assert Attempt.objects.get().state == "timed_out"
        assert not LockRequest.objects.exists(), "a retry asks for its locks again"
        age(run, seconds=31)
        heal()
        settle(claim(run, "wait"), deferred(3600))
        age(run, seconds=91)
        heal()
        row = task_of(run, "wait")
        assert (row.state, row.reason) == ("timed_out", "timed out after 90 s (attempt 2 of 2)")

    def test_one_that_waits_for_its_lock_again_ends_too(self) -> None:
        run = run_of("wait; wait: timeout=90 locks=warehouse")
        settle(claim(run, "wait"), deferred(10))
        LockRequest.objects.all().delete()
        claim(run_of("other; other: locks=warehouse"), "other")
        age(run, seconds=11)
        heal()
        assert states_of(run) == {"wait": "ready"}
        age(run, seconds=90)

        heal()

        assert states_of(run) == {"wait": "timed_out"}
        assert Attempt.objects.get(task_run=task_of(run, "wait")).state == "timed_out"

    def test_a_chord_counts_a_header_that_ends_at_its_deadline(self, broker: Broker) -> None:
        run = run_of("p*4 -[done]-> end; p_3: timeout=90")
        third = task_of(run, "p_3").pk
        simulation = Simulation(broker, lambda claimed: deferred(3600) if claimed.task_run_id == third else SUCCESS)
        simulation.drain()
        age(run, seconds=91)

        heal()
        simulation.drain()

        assert state_of(run) == "failed"
        assert states_of(run)["end"] == "succeeded"
        assert [len(parts) for parts in broker.parts.values()] == [4]


class TestStop:
    """What ends a deferred task from outside ends its attempt in the same transaction."""

    def test_a_cancelled_run_ends_at_once(self) -> None:
        run = run_of("wait -> next; wait: locks=warehouse")
        waiter = run_of("load; load: locks=warehouse")
        settle(claim(run, "wait"), deferred())

        cancel_run(run.pk, by="ada", reason="wrong day")

        assert states_of(run) == {"wait": "cancelled", "next": "cancelled"}
        assert state_of(run) == "cancelled"
        attempt = Attempt.objects.get(task_run__run=run)
        assert (attempt.state, attempt.reason, attempt.failure_kind) == ("cancelled", "wrong day", "stopped")
        assert attempt.ended_at is not None
        claim(waiter, "load")

    def test_a_run_whose_time_is_up_ends_its_deferred_attempt_timed_out(self) -> None:
        run = run_of(job_of("wait", timeout=600.0))
        settle(claim(run, "wait"), deferred(3000))
        age(run, seconds=601)

        heal()

        assert state_of(run) == "timed_out"
        assert states_of(run) == {"wait": "timed_out"}
        assert Attempt.objects.get().state == "timed_out"

    @pytest.mark.parametrize("drawing", ["a -> b", "a; a: locks=warehouse", "a*5 -> end"])
    def test_a_deferral_after_the_request_becomes_cancelled(self, drawing: str) -> None:
        run = run_of(drawing)
        first = next(iter(states_of(run)))
        claimed = claim(run, first)
        cancel_run(run.pk, by="ada")

        assert settle(claimed, deferred()) is True

        assert states_of(run)[first] == "cancelled"
        assert Attempt.objects.get().state == "cancelled"
        age(run, seconds=6)
        heal()
        assert state_of(run) == "cancelled"
        assert not LockRequest.objects.exists()


class TestLoss:
    """A worker that vanishes with a continued attempt takes it along like any other."""

    @pytest.mark.parametrize(("option", "state"), [("idempotent", "ready"), ("timeout=900", "failed")])
    def test_an_idempotent_task_begins_anew_and_any_other_fails(self, option: str, state: str) -> None:
        run = run_of(f"wait; wait: {option}")
        settle(claim(run, "wait"), deferred(60))
        age(run, seconds=61)
        lost = claim(run, "wait")
        age(run, seconds=16)

        heal()

        assert states_of(run) == {"wait": state}
        assert Attempt.objects.get().state == "lost"
        with pytest.raises(StaleToken):
            settle(lost)
        if state == "ready":
            again = claim(run, "wait")
            assert (again.number, again.elapsed_seconds) == (2, 0.0)

    def test_a_deferred_attempt_itself_cannot_be_lost(self) -> None:
        run = run_of("wait")
        settle(claim(run, "wait"), deferred(600))
        age(run, seconds=500)

        heal()

        assert states_of(run) == {"wait": "deferred"}


class TestPause:
    def test_a_paused_run_continues_nothing_and_its_resume_publishes_what_is_due(self, broker: Broker) -> None:
        run = run_of("wait, retry; retry: attempts=2 delay=5; wait: locks=warehouse")
        settle(claim(run, "wait"), deferred(60))
        run_task(run, "retry", FAILURE)
        pause_run(run.pk, by="ada")
        age(run, seconds=61)
        broker.published.clear()
        heal()
        assert broker.published == []
        assert claims.claim(task_run_id=task_of(run, "wait").pk, worker="w") is NotClaimed.NOT_NOW

        resume_run(run.pk, by="ada")

        assert sorted(broker.hinted()) == sorted([task_of(run, "wait").pk, task_of(run, "retry").pk])
        claim(run, "wait")
        claim(run, "retry")

    def test_a_message_that_came_during_the_pause_is_replaced_at_the_resume(self, broker: Broker) -> None:
        run = run_of("wait")
        settle(claim(run, "wait"), deferred(60))
        age(run, seconds=61)
        heal()
        pause_run(run.pk, by="ada")
        Simulation(broker).drain()
        broker.published.clear()

        resume_run(run.pk, by="ada")

        assert broker.hinted() == [task_of(run, "wait").pk]


class TestLocks:
    def test_a_deferred_attempt_keeps_its_locks_and_is_published_directly(self, broker: Broker) -> None:
        first = run_of("wait; wait: locks=warehouse")
        second = run_of("load; load: locks=warehouse")
        settle(claim(first, "wait"), deferred(60))
        age(first, seconds=61)
        broker.published.clear()

        heal()

        assert broker.hinted() == [task_of(first, "wait").pk]
        assert claims.claim(task_run_id=task_of(second, "load").pk, worker="w") is NotClaimed.NOT_NOW
        run_task(first, "wait")
        assert states_of(first) == {"wait": "succeeded"}
        claim(second, "load")

    def test_the_grant_of_one_that_waits_long_is_not_taken_back(self) -> None:
        run = run_of("wait; wait: locks=warehouse")
        settle(claim(run, "wait"), deferred(600))
        age(run, seconds=500)

        heal()

        assert LockRequest.objects.get().granted_at is not None

    def test_one_whose_grant_is_gone_asks_again_and_goes_on(self, broker: Broker) -> None:
        first = run_of("wait; wait: locks=warehouse timeout=900")
        second = run_of("load; load: locks=warehouse")
        begun = claim(first, "wait")
        settle(begun, deferred(60))
        LockRequest.objects.filter(task_run=begun.task_run_id).delete()
        heal()
        other = claim(second, "load")
        age(first, seconds=61)

        heal()
        assert states_of(first) == {"wait": "ready"}
        assert claims.claim(task_run_id=begun.task_run_id, worker="w") is NotClaimed.NOT_NOW
        settle(other)

        again = claim(first, "wait")
        assert (again.attempt_id, again.number) == (begun.attempt_id, 1)
        assert again.elapsed_seconds == pytest.approx(61, abs=5)
        settle(again)
        assert state_of(first) == "succeeded"


def test_a_chord_waits_for_a_header_that_defers_and_counts_it_once(broker: Broker) -> None:
    run = run_of("p*4 -> end")
    third = task_of(run, "p_3").pk
    simulation = Simulation(
        broker, lambda one: deferred(60) if one.task_run_id == third and not one.elapsed_seconds else SUCCESS
    )
    simulation.drain()
    assert states_of(run)["end"] == "waiting"
    age(run, seconds=61)
    heal()
    # Twice: a doubled message of a header must not be a second part.
    broker.waiting += list(broker.waiting)

    simulation.drain()

    assert state_of(run) == "succeeded"
    assert [len(parts) for parts in broker.parts.values()] == [4]


def test_a_chain_stops_at_a_deferral_and_goes_on_after_it(broker: Broker) -> None:
    run = run_of("a -> b -> c")
    b = task_of(run, "b").pk

    def end(claimed: Claimed) -> AttemptEnd:
        return deferred(60) if claimed.task_run_id == b and not claimed.elapsed_seconds else SUCCESS

    simulation = Simulation(broker, end)
    simulation.drain()
    assert states_of(run) == {"a": "succeeded", "b": "deferred", "c": "waiting"}

    age(run, seconds=61)
    heal()
    simulation.drain()

    assert state_of(run) == "succeeded"


def test_the_hint_of_a_due_deferral_that_is_lost_is_published_again(broker: Broker) -> None:
    run = run_of("wait")
    settle(claim(run, "wait"), deferred(5))
    age(run, seconds=6)
    broker.published.clear()
    heal()
    heal()
    assert len(broker.published) == 1

    age(run, seconds=20)
    heal()

    assert len(broker.published) == 2


def test_a_time_out_that_the_worker_reports_counts_the_continued_attempt() -> None:
    run = run_of("wait; wait: attempts=2 on=timeout idempotent")
    settle(claim(run, "wait"), deferred(60))
    age(run, seconds=61)

    claimed = claim(run, "wait")

    assert ending(claimed, TIMEOUT).task_state == TaskState.RETRY_WAITING
    assert attempts.claim_task_run(claimed.task_run_id, worker=WORKER) is NotClaimed.NOT_NOW
