"""Two hands at one lock on PostgreSQL, and many runs under one lock while their workers are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from orchestrator.ledger.claims import Claimed
from orchestrator.models import JobRun, Lock, LockRequest, Transition
from orchestrator.services.attempts import claim_task_run
from orchestrator.services.locks import LockInUse, LockNotHeld, StoredLock, delete_lock, release_holder, set_lock
from tests.concurrency.lock_load import replay
from tests.concurrency.test_races import at_once, deadlocks
from tests.support.factories import default_tenant, job_of, run_of, state_of, task_of
from tests.support.processes import ROOT
from tests.support.simulation import claim, heal, run_task, settle

ROUNDS = 5
LOAD = "load; load: locks=warehouse"
SOAK = bool(os.environ.get("SOAK"))


def holders() -> set[int]:
    rows = LockRequest.objects.filter(lock__name="warehouse", granted_at__isnull=False)
    return set(rows.values_list("task_run__run_id", flat=True))


def release(run: JobRun) -> Callable[[], Any]:
    id = task_of(run, "load").pk
    return lambda: release_holder(
        tenant_id=run.tenant_id, name="warehouse", task_run_id=id, by="user:ada", reason="it hangs"
    )


def capacity(number: int) -> Callable[[], Any]:
    return lambda: set_lock(tenant=default_tenant(), name="warehouse", capacity=number, by="user:ada")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("database_url", "broker")
class TestRaces:
    @pytest.fixture(autouse=True)
    def _on_postgresql(self) -> None:
        assert connection.vendor == "postgresql", "UPBEAT_TEST_DATABASE_URL must name a PostgreSQL"

    def test_a_release_by_a_person_against_the_end_of_the_holder_grants_once(self) -> None:
        for _ in range(ROUNDS):
            first, second, third = (run_of(LOAD) for _ in range(3))
            held = claim(first, "load")

            released, settled = at_once(release(first), lambda held=held: settle(held))

            assert settled is True
            # Whoever came first gave the lock back; the other found nothing to give.
            assert isinstance(released, LockNotHeld) or released.run_id == first.pk
            assert holders() == {second.pk}
            assert state_of(first) == "succeeded"
            for run in (second, third):
                run_task(run, "load")
            assert holders() == set()

    def test_of_two_releases_at_once_one_is_refused_and_one_waiter_is_let_in(self) -> None:
        for _ in range(ROUNDS):
            first, second, third = (run_of(LOAD) for _ in range(3))
            held = claim(first, "load")

            results = at_once(release(first), release(first))

            assert sum(isinstance(result, LockNotHeld) for result in results) == 1
            assert holders() == {second.pk}
            settle(held)
            assert Transition.objects.filter(cause="release_lock", run_id=first.pk).count() == 1
            for run in (second, third):
                run_task(run, "load")

    def test_a_release_of_an_unused_grant_against_its_claim_leaves_one_holder(self) -> None:
        for _ in range(ROUNDS):
            first, second = run_of(LOAD), run_of(LOAD)
            id = task_of(first, "load").pk

            released, claimed = at_once(release(first), lambda id=id: claim_task_run(id, worker="w"))

            assert released.run_id == first.pk
            assert holders() == {second.pk}
            if isinstance(claimed, Claimed):
                # It was claimed first, so the release took the lock from one that runs.
                assert released.state == "running"
                settle(claimed, worker="w")
            else:
                assert released.state == "ready"
            run_task(second, "load")
            if not isinstance(claimed, Claimed):
                run_task(first, "load")
            assert {state_of(first), state_of(second)} == {"succeeded"}

    def test_a_raise_of_the_capacity_against_asks_leaves_no_free_slot_with_a_waiter(self) -> None:
        job = job_of(LOAD)
        for _ in range(ROUNDS):
            run_of(job)
            before = deadlocks()

            results = at_once(capacity(3), *(lambda: run_of(job) for _ in range(5)))

            assert isinstance(results[0], StoredLock)
            assert all(isinstance(result, JobRun) for result in results[1:]), results
            assert len(holders()) == 3
            assert heal() == {}, "nothing was left to the reconciler"
            assert deadlocks() == before
            while open_runs := holders():
                for id in open_runs:
                    run_task(JobRun.objects.get(pk=id), "load")
            capacity(1)()

    def test_lowering_against_releases_never_lets_in_more_than_the_lower_capacity_allows(self) -> None:
        job = job_of(LOAD)
        for _ in range(ROUNDS):
            capacity(3)()
            runs = [run_of(job) for _ in range(6)]
            attempts = [claim(run, "load") for run in runs[:3]]

            at_once(capacity(1), *(lambda held=held: settle(held) for held in attempts))

            late = holders() - {run.pk for run in runs[:3]}
            assert len(late) in (1, 2, 3), "those let in before it was lowered stay"
            capacity(1)()
            while open_runs := holders():
                for id in open_runs:
                    run_task(JobRun.objects.get(pk=id), "load")
            assert {state_of(run) for run in runs} == {"succeeded"}

    def test_deleting_a_lock_against_asking_for_it_loses_neither_the_run_nor_its_turn(self) -> None:
        job = job_of(LOAD)
        tenant = default_tenant()
        for _ in range(ROUNDS):
            capacity(1)()

            deleted, *runs = at_once(
                lambda: delete_lock(tenant_id=tenant.pk, name="warehouse", by="user:ada"),
                *(lambda: run_of(job) for _ in range(3)),
            )

            assert deleted is None or isinstance(deleted, LockInUse), deleted
            assert all(isinstance(run, JobRun) for run in runs), runs
            assert Lock.objects.filter(name="warehouse").count() == 1
            for _ in runs:
                (id,) = holders()
                run_task(JobRun.objects.get(pk=id), "load")
            assert {state_of(run) for run in runs} == {"succeeded"}

    def test_releases_of_crossed_pairs_of_locks_never_stop_one_another(self) -> None:
        for _ in range(ROUNDS):
            ab, ba = run_of("t; t: locks=a,b"), run_of("t; t: locks=b,a")
            c, d = run_of("t; t: locks=a,c"), run_of("t; t: locks=b,c")
            for run in (ab, ba, c, d):
                assert at_once(lambda run=run: run_task(run, "t"))[0] is True
            runs = [run_of(f"t; t: locks={pair}") for pair in ("a,b", "c,d", "a,c", "b,d")]
            first, second = claim(runs[0], "t"), claim(runs[1], "t")
            assert {state_of(run) for run in runs} == {"running"}

            at_once(lambda held=first: settle(held), lambda held=second: settle(held))
            heal()

            run_task(runs[2], "t")
            run_task(runs[3], "t")
            assert {state_of(run) for run in runs} == {"succeeded"}


NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


def asks(tx: int, request: int, priority: int) -> tuple[Any, ...]:
    return (tx, "ask", request, priority, NOON + timedelta(seconds=request))


def does(tx: int, what: str, request: int) -> tuple[Any, ...]:
    return (tx, what, request, None, None)


def test_the_judge_of_the_order_sees_who_was_passed_over_and_a_fourth_holder() -> None:
    begun = [asks(1, 1, 3), does(1, "grant", 1), asks(2, 2, 3), asks(3, 3, 1)]

    assert replay([*begun, does(4, "grant", 3), does(4, "release", 1), asks(4, 4, 0)]) == []
    assert replay([*begun, does(4, "release", 1), does(4, "grant", 2)]) == [
        "transaction 4 granted [2], but [3] were first"
    ]
    full = [each for n in range(1, 5) for each in (asks(n, n, 3), does(n, "grant", n))]
    assert replay(full) == ["transaction 4 made 4 holders"]


@pytest.mark.kill
@pytest.mark.parametrize("repeat", range(5 if SOAK else 1))
def test_under_random_kills_never_more_than_three_are_inside_and_nobody_starves(repeat: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")

    ended = subprocess.run(
        [sys.executable, "-m", "tests.concurrency.lock_load", "--seed", str(seed), "--home", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
