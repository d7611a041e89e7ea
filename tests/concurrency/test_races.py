"""Two actors at one gate on PostgreSQL: one wins, the other's silence is as important as the winner's effect.

`at_once` releases all actors from one barrier, each on a connection of its own. `holding` holds rows in a transaction
of its own until the actors stand before them, so that the order of events is the one the test means.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import Error, connection, connections, transaction
from django.db.models import F

from orchestrator.errors import StaleToken
from orchestrator.ledger import claims, reconciler
from orchestrator.ledger.claims import Claimed, NotClaimed
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import Attempt, Fragment, JobRun, Lease, Lock, LockRequest, TaskRun, Transition
from orchestrator.services import attempts
from orchestrator.services.leadership import Leadership
from orchestrator.services.runs import advance_run, cancel_run, pause_run
from tests.support.factories import age, default_tenant, job_of, moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, SUCCESS, claim, heal, run_task, settle
from tests.support.waiting import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database_url", "broker")]

ROUNDS = 5


@pytest.fixture(autouse=True)
def _on_postgresql() -> None:
    assert connection.vendor == "postgresql", "UPBEAT_TEST_DATABASE_URL must name a PostgreSQL"


def in_own_connection(work: Callable[[], Any]) -> Any:
    try:
        return work()
    finally:
        connections.close_all()


def at_once(*actors: Callable[[], Any]) -> list[Any]:
    """Run all actors from one barrier; returns their values, or the exceptions they raised, in order."""
    gate = threading.Barrier(len(actors))

    def act(actor: Callable[[], Any]) -> Any:
        connection.ensure_connection()
        gate.wait(10)
        return actor()

    with ThreadPoolExecutor(len(actors)) as pool:
        futures = [pool.submit(in_own_connection, lambda actor=actor: act(actor)) for actor in actors]
        return [future.exception() or future.result() for future in futures]


@contextmanager
def holding(rows: Any) -> Iterator[Callable[..., Future[Any]]]:
    """Hold these rows; inside, `wait_for(actor)` starts an actor and returns once it waits for a lock."""
    with ThreadPoolExecutor(8) as pool, transaction.atomic():
        assert list(rows.select_for_update())

        def wait_for(actor: Callable[[], Any]) -> Future[Any]:
            before = waiting_for_locks()
            future = pool.submit(in_own_connection, actor)
            eventually(lambda: waiting_for_locks() > before, within=1.5, every=0.005, saying="the actor waits")
            return future

        yield wait_for


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_locks where not granted and pid <> pg_backend_pid()")
        return int(cursor.fetchone()[0])


def row_of(run: JobRun, name: str) -> Any:
    return TaskRun.objects.filter(pk=task_of(run, name).pk)


def attempt_of(task_run_id: int, worker: str) -> Callable[[], Any]:
    return lambda: attempts.claim_task_run(task_run_id, worker=worker)


class TestClaim:
    @pytest.mark.parametrize("drawing", ["a", "a; a: locks=warehouse"])
    def test_of_many_claimers_one_wins(self, drawing: str) -> None:
        for _ in range(ROUNDS):
            run = run_of(drawing)
            id = task_of(run, "a").pk

            results = at_once(*(attempt_of(id, f"w{n}") for n in range(6)))

            winners = [result for result in results if isinstance(result, Claimed)]
            assert len(winners) == 1
            assert results.count(NotClaimed.NOT_NOW) == 5
            assert Attempt.objects.filter(task_run_id=id).count() == 1
            assert settle(winners[0])

    def test_a_claim_that_waits_for_a_cancellation_finds_nothing(self) -> None:
        run = run_of("a")
        with holding(row_of(run, "a")) as wait_for:
            cancelling = wait_for(lambda: cancel_run(run.pk, by="ada"))
            claiming = wait_for(attempt_of(task_of(run, "a").pk, "w"))

        cancelling.result()
        assert claiming.result() is NotClaimed.OVER
        assert (state_of(run), Attempt.objects.count()) == ("cancelled", 0)

    def test_a_cancellation_that_waits_for_a_claim_asks_the_attempt_to_stop(self) -> None:
        run = run_of("a")
        with holding(row_of(run, "a")) as wait_for:
            claiming = wait_for(attempt_of(task_of(run, "a").pk, "w"))
            cancelling = wait_for(lambda: cancel_run(run.pk, by="ada"))

        claimed = claiming.result()
        cancelling.result()
        assert isinstance(claimed, Claimed)
        assert claims.renew({claimed.task_run_id: claimed.token}) == {claimed.task_run_id: "cancelled by ada"}
        settle(claimed)
        assert state_of(run) == "cancelled"

    def test_cancel_against_claim_leaves_no_attempt_without_a_stop(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a, b")
            id = task_of(run, "a").pk

            claimed, _ = at_once(attempt_of(id, "w"), lambda run=run: cancel_run(run.pk, by="ada"))

            if isinstance(claimed, Claimed):
                assert task_of(run, "a").stop_requested_at is not None
                settle(claimed)
            assert state_of(run) == "cancelled"
            assert states_of(run)["b"] == "cancelled"

    def test_pause_against_claim_starts_nothing_after_the_pause(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a, b")
            a, b = task_of(run, "a").pk, task_of(run, "b").pk

            at_once(attempt_of(a, "w"), lambda run=run: pause_run(run.pk, by="ada"))

            assert attempts.claim_task_run(b, worker="w") is NotClaimed.NOT_NOW
            assert states_of(run)["a"] in ("ready", "running")

    def test_a_claim_that_waited_does_not_use_a_grant_that_was_taken_back(self) -> None:
        first = run_of("a; a: locks=warehouse")
        second = run_of("a; a: locks=warehouse")
        age(first, seconds=61)
        id = task_of(first, "a").pk
        rows = LockRequest.objects.filter(task_run_id=id)
        with holding(rows) as wait_for:
            healing = wait_for(heal)
            claiming = wait_for(attempt_of(id, "w"))

        healing.result()
        assert claiming.result() is NotClaimed.NOT_NOW
        assert LockRequest.objects.get(granted_at__isnull=False).task_run.run_id == second.pk


class TestSettle:
    def test_two_workers_settling_the_same_attempt_write_one_outcome(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a -> b")
            claimed = claim(run, "a")

            results = at_once(lambda c=claimed: settle(c, SUCCESS), lambda c=claimed: settle(c, FAILURE))

            assert sum(isinstance(result, StaleToken) for result in results) == 1
            assert moves_of(run, "a")[:3] == ["waiting", "ready", "running"]
            assert len(moves_of(run, "a")) == 4

    def test_a_stale_worker_that_settles_during_the_expiry_is_fenced_off(self) -> None:
        run = run_of("a; a: idempotent")
        stale = claim(run, "a")
        age(run, seconds=16)

        settled, healed = at_once(lambda: settle(stale), heal)

        # Whoever came first: either its outcome stands, or another attempt runs and its outcome is nothing.
        if isinstance(settled, StaleToken):
            assert healed == {"lease_expired": 1}
            assert states_of(run) == {"a": "ready"}
            with pytest.raises(StaleToken):
                settle(stale)
            run_task(run, "a")
        assert (states_of(run), state_of(run)) == ({"a": "succeeded"}, "succeeded")

    def test_the_expiry_steps_over_a_row_that_a_settle_holds(self) -> None:
        run = run_of("a; a: idempotent")
        claim(run, "a")
        age(run, seconds=16)

        with transaction.atomic():
            assert list(row_of(run, "a").select_for_update())
            (healed,) = at_once(heal)

        assert healed == {}
        assert states_of(run) == {"a": "running"}

    @pytest.mark.parametrize("drawing", ["a, b", "start -> a, b; start: join=all"])
    def test_two_last_leaves_that_settle_at_once_finish_the_run(self, drawing: str) -> None:
        for _ in range(ROUNDS):
            run = run_of(drawing)
            if "start" in drawing:
                run_task(run, "start")
            a, b = claim(run, "a"), claim(run, "b")

            at_once(lambda a=a: settle(a), lambda b=b: settle(b))

            assert state_of(run) == "succeeded"
            assert Transition.objects.filter(subject="run", subject_id=run.pk, to_state="succeeded").count() == 1

    @pytest.mark.parametrize("join", ["all", "any"])
    @pytest.mark.parametrize("ends", [(SUCCESS, SUCCESS), (SUCCESS, FAILURE), (FAILURE, FAILURE)])
    def test_two_upstreams_of_one_join_that_settle_at_once_decide_it_once(self, join: str, ends: Any) -> None:
        for _ in range(ROUNDS):
            run = run_of(f"a, b -> end; end: join={join}")
            a, b = claim(run, "a"), claim(run, "b")

            at_once(lambda a=a: settle(a, ends[0]), lambda b=b: settle(b, ends[1]))

            opens = (all if join == "all" else any)(end is SUCCESS for end in ends)
            assert states_of(run)["end"] == ("ready" if opens else "upstream_failed")
            assert len(moves_of(run, "end")) == 2
            if opens:
                run_task(run, "end")
            assert state_of(run) == ("failed" if FAILURE in ends else "succeeded")

    def test_many_upstreams_of_many_joins_that_settle_at_once_start_each_of_them_once(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("; ".join(["a*8 -> b*8", "late -> b_1"]))
            claimed = [claim(run, f"a_{n}", worker=f"w{n}") for n in range(1, 9)]

            results = at_once(*(lambda each=each: settle(each, worker=f"w{each.position}") for each in claimed))  # type: ignore[misc]

            assert results == [True] * 8
            states = states_of(run)
            assert [states[f"b_{n}"] for n in range(1, 9)] == ["waiting"] + ["ready"] * 7
            assert task_of(run, "b_1").open_upstreams == 1
            assert all(moves_of(run, f"b_{n}") == ["waiting", "ready"] for n in range(2, 9))
            assert not TaskRun.objects.filter(run=run, ended_at__isnull=False, planned_at=None).exists()
            run_task(run, "late")
            assert states_of(run)["b_1"] == "ready"

    def test_the_headers_of_a_chord_and_two_advances_at_once_start_its_tail_once(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("p*4 -> end")
            headers = [claim(run, f"p_{n}") for n in range(1, 5)]
            at_once(*(lambda c=c: settle(c) for c in headers))

            hints = at_once(*(lambda run=run: advance_run(run.pk) for _ in range(4)))

            assert sum(hints) == 1
            assert moves_of(run, "end") == ["waiting", "ready"]

    def test_cancel_against_settle_ends_cancelled_and_an_outcome_that_was_first_stands(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a -> b -> c")
            claimed = claim(run, "a")

            at_once(lambda c=claimed: settle(c), lambda run=run: cancel_run(run.pk, by="ada"))

            assert states_of(run) == {"a": "succeeded", "b": "cancelled", "c": "cancelled"}
            assert state_of(run) == "cancelled"

    def test_cancel_against_the_last_settle_ends_the_run_once(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a")
            claimed = claim(run, "a")

            at_once(lambda c=claimed: settle(c), lambda run=run: cancel_run(run.pk, by="ada"))

            assert state_of(run) in ("succeeded", "cancelled")
            ends = Transition.objects.filter(subject="run", subject_id=run.pk).exclude(from_state=F("to_state"))
            assert ends.count() == 3

    def test_cancel_against_a_retry_leaves_nothing_to_repeat(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a; a: attempts=5")
            claimed = claim(run, "a")

            at_once(lambda c=claimed: settle(c, FAILURE), lambda run=run: cancel_run(run.pk, by="ada"))

            assert states_of(run) == {"a": "cancelled"}
            assert state_of(run) == "cancelled"

    def test_a_settle_that_opens_a_chord_and_a_cancellation_do_not_deadlock(self) -> None:
        run = run_of("start -> p*4 -> end")
        claimed = claim(run, "start")
        before = deadlocks()
        with holding(row_of(run, "p_1")) as wait_for:
            # The settle holds `start`, the cancellation the run; the fragment of the chord refers to the run.
            settling = wait_for(lambda: settle(claimed))
            cancelling = wait_for(lambda: cancel_run(run.pk, by="ada"))

        settling.result()
        cancelling.result()
        assert Fragment.objects.filter(run=run).count() == 1
        assert state_of(run) == "cancelled"
        assert deadlocks() == before


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select pg_stat_clear_snapshot(), pg_stat_force_next_flush()")
        cursor.execute("select deadlocks from pg_stat_database where datname = current_database()")
        return int(cursor.fetchone()[0])


class TestAdmission:
    def trigger(self, job: Any, times: int, key: str | None = None) -> list[JobRun]:
        results = at_once(*(lambda: run_of(job, key=key) for _ in range(times)))
        assert all(isinstance(result, JobRun) for result in results), results
        return results

    def test_ten_triggers_queue_behind_an_exact_limit(self) -> None:
        job = job_of("a", limit=3)

        self.trigger(job, 10)

        states = Counter(JobRun.objects.filter(job=job).values_list("state", flat=True))
        assert states == {"running": 3, "pending": 7}

    def test_of_ten_triggers_all_beyond_the_limit_are_skipped(self) -> None:
        job = job_of("a", limit=3, when_full="skip")

        self.trigger(job, 10)

        states = Counter(JobRun.objects.filter(job=job).values_list("state", "reason"))
        assert states == {("running", ""): 3, ("cancelled", "concurrency_skip"): 7}

    def test_of_ten_triggers_that_replace_the_newest_stay(self) -> None:
        job = job_of("a", limit=3, when_full="cancel_running")

        self.trigger(job, 10)

        states = Counter(JobRun.objects.filter(job=job).values_list("state", "reason"))
        assert states == {("running", ""): 3, ("cancelled", "concurrency_replaced"): 7}

    def test_replacing_runs_whose_attempts_still_run_never_exceeds_the_limit(self) -> None:
        job = job_of("a", limit=3, when_full="cancel_running")
        held = [claim(run, "a") for run in self.trigger(job, 3)]

        self.trigger(job, 7)
        assert JobRun.objects.filter(job=job, state="running").count() == 3
        at_once(*(lambda c=c: settle(c) for c in held))

        running = JobRun.objects.filter(job=job, state="running")
        newest = JobRun.objects.filter(job=job).order_by("-id")[:3]
        assert {run.pk for run in running} == {run.pk for run in newest}

    def test_ends_and_triggers_at_once_keep_the_limit_and_forget_nobody(self) -> None:
        job = job_of("a", limit=2)
        self.trigger(job, 6)
        running = [claim(run, "a") for run in JobRun.objects.filter(job=job, state="running")]

        at_once(*(lambda c=c: settle(c) for c in running), *(lambda: run_of(job) for _ in range(4)))

        states = Counter(JobRun.objects.filter(job=job).values_list("state", flat=True))
        assert states == {"succeeded": 2, "running": 2, "pending": 6}

    def test_one_trigger_key_used_ten_times_at_once_starts_one_run(self) -> None:
        job = job_of("a -> b")

        runs = self.trigger(job, 10, key="deploy-7")

        assert len({run.pk for run in runs}) == 1
        assert TaskRun.objects.filter(run__job=job).count() == 2
        assert Transition.objects.filter(subject="run").count() == 2

    def test_the_same_key_under_a_limit_takes_one_place(self) -> None:
        job = job_of("a", limit=1)

        self.trigger(job, 10, key="deploy-7")
        assert JobRun.objects.filter(job=job).count() == 1


class TestLocks:
    @pytest.mark.parametrize("capacity", [1, 3])
    def test_never_more_holders_than_slots_and_everybody_has_a_turn(self, capacity: int) -> None:
        Lock.objects.create(tenant=default_tenant(), name="warehouse", capacity=capacity)
        job = job_of("a; a: locks=warehouse")
        runs = at_once(*(lambda: run_of(job) for _ in range(8)))
        assert all(isinstance(run, JobRun) for run in runs), runs
        inside = threading.Lock()
        holders: list[int] = []
        most: list[int] = []

        def worker(name: str) -> None:
            give_up = time.monotonic() + 15
            while time.monotonic() < give_up:
                open_ids = list(TaskRun.objects.filter(state="ready").values_list("pk", flat=True))
                if not open_ids and not TaskRun.objects.filter(state="running").exists():
                    return
                for id in open_ids:
                    claimed = attempts.claim_task_run(id, worker=name)
                    if isinstance(claimed, Claimed):
                        with inside:
                            holders.append(id)
                            most.append(len(holders))
                        time.sleep(0.01)
                        with inside:
                            holders.remove(id)
                        settle(claimed, worker=name)

        at_once(*(lambda n=n: worker(f"w{n}") for n in range(4)))

        assert max(most) <= capacity
        assert {state_of(run) for run in runs} == {"succeeded"}
        assert not LockRequest.objects.exists()

    def test_tasks_that_need_the_same_locks_in_any_order_do_not_deadlock(self) -> None:
        before = deadlocks()
        job_ab, job_ba = job_of("t; t: locks=a,b"), job_of("t; t: locks=b,a")
        job_a, job_b = job_of("t; t: locks=a"), job_of("t; t: locks=b")
        jobs = [job_ab, job_ba, job_a, job_b] * 2

        runs = at_once(*(lambda job=job: run_of(job) for job in jobs))
        assert all(isinstance(run, JobRun) for run in runs), runs

        def work_off() -> None:
            give_up = time.monotonic() + 15
            while TaskRun.objects.filter(state__in=["ready", "running"]).exists() and time.monotonic() < give_up:
                for id in TaskRun.objects.filter(state="ready").values_list("pk", flat=True):
                    claimed = attempts.claim_task_run(id, worker="w")
                    if isinstance(claimed, Claimed):
                        settle(claimed)
                reconciler.round_of(lambda: True, may_expire=False)

        failures = [error for error in at_once(work_off, work_off) if error is not None]
        assert failures == []

        assert {state_of(run) for run in runs} == {"succeeded"}
        assert deadlocks() == before


def test_the_victim_of_a_deadlock_is_repeated() -> None:
    first, second = run_of("a"), run_of("a")
    gate = threading.Barrier(2)
    tries: Counter[str] = Counter()

    def lock_both(name: str, runs: list[JobRun]) -> Callable[[], str]:
        def work() -> str:
            tries[name] += 1
            for number, run in enumerate(runs):
                assert JobRun.objects.select_for_update().get(pk=run.pk)
                if number == 0 and tries[name] == 1:
                    gate.wait(5)
            return name

        return lambda: in_transaction(work)

    results = at_once(lock_both("one", [first, second]), lock_both("two", [second, first]))

    assert results == ["one", "two"]
    assert sorted(tries.values()) == [1, 2]


class TestLeadership:
    def test_of_many_candidates_one_leads(self) -> None:
        for _ in range(ROUNDS):
            Lease.objects.all().delete()
            candidates = [Leadership("reconciler") for _ in range(6)]

            assert sum(at_once(*(c.seek for c in candidates))) == 1

    def test_a_dead_leader_is_followed_within_five_seconds(self) -> None:
        leader, standby = Leadership("beat"), Leadership("beat")
        leader.seek()
        began = time.monotonic()

        eventually(standby.seek, within=5, every=0.2)

        assert time.monotonic() - began < 5
        assert in_transaction(leader.still_leads) is False

    def test_nobody_takes_over_while_the_leader_is_inside_its_transaction(self) -> None:
        leader, standby = Leadership("beat"), Leadership("beat")
        leader.seek()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                assert leader.still_leads()
                Lease.objects.update(expires_at=F("expires_at") - timedelta(seconds=10))
                seeking = pool.submit(in_own_connection, standby.seek)
                eventually(waiting_for_locks, within=1.5, saying="the standby waits")
                # What the leader writes here is its last word, and it is written before the standby leads.
                assert not seeking.done()
            assert seeking.result(5) is True

        assert standby.epoch == (leader.epoch or 0) + 1

    def test_a_leader_frozen_before_its_transaction_writes_nothing_after_it_was_replaced(self) -> None:
        leader, standby = Leadership("reconciler"), Leadership("reconciler")
        leader.seek()
        Lease.objects.update(expires_at=F("expires_at") - timedelta(seconds=10))
        standby.seek()
        run = run_of("a; a: idempotent")
        claim(run, "a")
        age(run, seconds=60)

        assert reconciler.round_of(leader.still_leads, may_expire=True).by_cause == {}
        assert states_of(run) == {"a": "running"}
        assert reconciler.round_of(standby.still_leads, may_expire=True).by_cause == {"lease_expired": 1}

    def test_a_leader_frozen_inside_its_transaction_is_ended_by_the_database(self) -> None:
        leader, standby = Leadership("beat"), Leadership("beat")
        leader.seek()
        frozen = threading.Event()
        thaw = threading.Event()
        broke: list[type[BaseException]] = []

        def freeze() -> None:
            try:
                with transaction.atomic():
                    assert leader.still_leads()
                    frozen.set()
                    thaw.wait(15)
                    Lease.objects.filter(name="beat").update(holder="the frozen one")
            except (Error, psycopg.Error) as error:
                broke.append(type(error))
            finally:
                connections.close_all()

        thread = threading.Thread(target=freeze)
        thread.start()
        assert frozen.wait(5)
        began = time.monotonic()
        eventually(standby.seek, within=8, every=0.2)
        took = time.monotonic() - began
        thaw.set()
        thread.join(10)

        assert took <= 5
        assert len(broke) == 1
        assert Lease.objects.get(name="beat").holder == standby.holder

    def test_two_reconcilers_in_one_round_heal_each_damage_once(self) -> None:
        runs = [run_of("a; a: idempotent") for _ in range(5)]
        for run in runs:
            claim(run, "a")
        age(*runs, seconds=60)

        at_once(heal, heal, heal)

        assert Attempt.objects.filter(state="lost").count() == 5
        assert all(moves_of(run, "a") == ["waiting", "ready", "running", "ready"] for run in runs)
