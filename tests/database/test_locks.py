from __future__ import annotations

import pytest

from orchestrator.ledger.claims import NotClaimed
from orchestrator.models import JobRun, Lock, LockRequest
from orchestrator.services.attempts import claim_task_run
from orchestrator.services.runs import cancel_run
from tests.support.factories import age, job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, Broker, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

LOAD = "load; load: locks=warehouse"


def holders(name: str = "warehouse") -> list[int]:
    """Runs that hold a lock, in the order of grants."""
    rows = LockRequest.objects.filter(lock__name=name, granted_at__isnull=False).order_by("granted_at", "id")
    return list(rows.values_list("task_run__run_id", flat=True))


def test_a_free_lock_is_granted_before_the_hint_is_published(broker: Broker) -> None:
    run = run_of(LOAD)

    assert holders() == [run.pk]
    assert broker.hinted() == [task_of(run, "load").pk]
    run_task(run, "load")
    assert holders() == []
    assert not LockRequest.objects.exists()


def test_a_waiter_is_ready_unpublished_and_cannot_be_claimed(broker: Broker) -> None:
    run_of(LOAD)
    broker.published.clear()

    second = run_of(LOAD)

    assert states_of(second) == {"load": "ready"}
    assert broker.published == []
    assert claim_task_run(task_of(second, "load").pk, worker="w") is NotClaimed.NOT_NOW


def test_the_transaction_that_frees_a_lock_grants_it_to_the_first_waiter(broker: Broker) -> None:
    first, second, third = (run_of(LOAD) for _ in range(3))
    broker.published.clear()

    run_task(first, "load")

    assert holders() == [second.pk]
    assert broker.hinted() == [task_of(second, "load").pk]
    run_task(second, "load")
    assert holders() == [third.pk]


def test_a_higher_priority_goes_before_an_older_waiter() -> None:
    first = run_of(LOAD)
    run_of(LOAD)
    urgent = run_of("load; load: locks=warehouse priority=P0")

    run_task(first, "load")

    assert holders() == [urgent.pk]


def test_a_task_gets_all_of_its_locks_or_none(broker: Broker) -> None:
    a = run_of("t; t: locks=a")
    both = run_of("t; t: locks=a,b")
    assert holders("b") == []

    b = run_of("t; t: locks=b")
    assert holders("b") == [], "the first in the queue of b waits for a, and is not overtaken"

    run_task(a, "t")
    assert (holders("a"), holders("b")) == ([both.pk], [both.pk])
    run_task(both, "t")
    assert holders("b") == [b.pk]


def test_a_lock_with_capacity_three_is_held_by_three() -> None:
    Lock.objects.create(tenant_id=run_of("x").tenant_id, name="warehouse", capacity=3)
    runs = [run_of(LOAD) for _ in range(5)]
    assert holders() == [run.pk for run in runs[:3]]

    run_task(runs[1], "load")

    assert holders() == [runs[0].pk, runs[2].pk, runs[3].pk]


def test_several_tasks_of_one_run_share_a_lock_one_after_the_other(broker: Broker) -> None:
    run = run_of("start -> p*3 -> end; p_1, p_2, p_3: locks=warehouse")
    run_task(run, "start")

    for name in ("p_1", "p_2", "p_3"):
        assert len(holders()) == 1
        run_task(run, name)
    run_task(run, "end")

    assert state_of(run) == "succeeded"


def test_a_cancelled_waiter_leaves_the_queue_and_a_cancelled_holder_frees_its_lock(broker: Broker) -> None:
    first, second, third = (run_of(LOAD) for _ in range(3))

    cancel_run(second.pk, by="ada")
    assert holders() == [first.pk]
    cancel_run(first.pk, by="ada")

    assert holders() == [third.pk]


def test_a_cancelled_run_keeps_its_lock_until_its_attempt_has_ended() -> None:
    first, second = run_of(LOAD), run_of(LOAD)
    attempt = claim(first, "load")

    cancel_run(first.pk, by="ada")
    assert holders() == [first.pk]
    settle(attempt)

    assert holders() == [second.pk]


class TestVanishedHolder:
    def test_its_lock_is_free_ten_seconds_after_its_lease(self) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        claim(first, "load")
        age(first, seconds=16)

        heal()
        assert states_of(first) == {"load": "failed"}
        assert holders() == [first.pk], "its process may still write"

        age(first, seconds=10)
        assert heal()["lock_released"] == 1
        assert holders() == [second.pk]

    def test_an_idempotent_task_gets_the_lock_again_and_runs(self) -> None:
        run = run_of("load; load: locks=warehouse idempotent")
        claim(run, "load")
        age(run, seconds=20)
        heal()
        assert states_of(run) == {"load": "retry_waiting"}

        age(run, seconds=11)
        heal()
        heal()

        assert holders() == [run.pk]
        run_task(run, "load")
        assert state_of(run) == "succeeded"

    def test_another_waiter_may_go_first_and_both_run(self) -> None:
        lost, other = run_of("load; load: locks=warehouse idempotent"), run_of(LOAD)
        claim(lost, "load")
        age(lost, seconds=20)
        heal()
        age(lost, seconds=11)
        heal()
        heal()

        while holders():
            run_task(JobRun.objects.get(pk=holders()[0]), "load")

        assert (state_of(lost), state_of(other)) == ("succeeded", "succeeded")


class TestUnclaimedGrant:
    def test_it_goes_to_the_next_and_its_first_holder_asks_again(self, broker: Broker) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        age(first, seconds=61)
        broker.published.clear()

        assert heal()["grant_unclaimed"] == 1

        assert holders() == [second.pk]
        assert task_of(second, "load").pk in broker.hinted()
        run_task(second, "load")
        assert holders() == [first.pk]

    def test_a_running_holder_keeps_its_lock(self) -> None:
        first = run_of(LOAD)
        run_of(LOAD)
        claim(first, "load")
        age(first, seconds=70)
        task = task_of(first, "load")
        task.lease_until = None
        task.save()

        heal(may_expire=False)

        assert holders() == [first.pk]


def test_a_raised_capacity_lets_waiters_in() -> None:
    first, second = run_of(LOAD), run_of(LOAD)
    Lock.objects.update(capacity=2)

    assert heal()["lock_free"] == 1

    assert holders() == [first.pk, second.pk]


def test_a_failed_task_frees_its_lock() -> None:
    first, second = run_of(LOAD), run_of(LOAD)

    run_task(first, "load", FAILURE)

    assert holders() == [second.pk]


def test_a_job_at_its_limit_and_a_lock_do_not_block_each_other(broker: Broker) -> None:
    job = job_of("load; load: locks=warehouse", limit=1)
    first, second = run_of(job), run_of(job)

    run_task(first, "load")

    assert holders() == [second.pk]
    run_task(second, "load")
    assert state_of(second) == "succeeded"
