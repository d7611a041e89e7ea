"""People's commands against workers and against one another, on PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import AlreadyRerun, JobArchived, RunFinal, TaskIsRunning, UpbeatError
from orchestrator.ledger.claims import Claimed, NotClaimed
from orchestrator.models import ApiToken, JobRun, LockRequest, TaskRun, Transition
from orchestrator.services.idempotency import rerun_once
from orchestrator.services.jobs import archive_job
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from orchestrator.services.steering import mark_task, rerun, skip_task
from tests.concurrency.test_races import ROUNDS, _on_postgresql, at_once, attempt_of, deadlocks, holding, row_of
from tests.support.factories import job_of, moves_of, run_of, state_of, states_of, task_of
from tests.support.records import new_token
from tests.support.simulation import PERMANENT, Broker, Simulation, claim, run_task, settle

__all__ = ["_on_postgresql"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database_url", "broker")]


def skip(run: JobRun, name: str) -> Any:
    id = task_of(run, name).pk
    return lambda: skip_task(id, by="ada")


def mark(run: JobRun, name: str) -> Any:
    id = task_of(run, name).pk
    return lambda: mark_task(id, by="ada")


def failed_run(drawing: str = "a -> b") -> JobRun:
    run = run_of(drawing)
    run_task(run, "a", PERMANENT)
    return run


class TestSkipAndMark:
    def test_a_claim_that_waits_for_a_skip_finds_the_task_over(self) -> None:
        run = run_of("a -> b")
        with holding(row_of(run, "a")) as wait_for:
            skipping = wait_for(skip(run, "a"))
            claiming = wait_for(attempt_of(task_of(run, "a").pk, "w"))

        skipping.result()
        assert claiming.result() is NotClaimed.OVER
        assert (states_of(run), state_of(run)) == ({"a": "skipped", "b": "skipped"}, "succeeded")

    def test_a_skip_that_waits_for_a_claim_is_refused(self) -> None:
        run = run_of("a -> b")
        with holding(row_of(run, "a")) as wait_for:
            claiming = wait_for(attempt_of(task_of(run, "a").pk, "w"))
            skipping = wait_for(skip(run, "a"))

        claimed = claiming.result()
        assert isinstance(skipping.exception(), TaskIsRunning)
        assert isinstance(claimed, Claimed)
        settle(claimed)
        assert states_of(run) == {"a": "succeeded", "b": "ready"}

    @pytest.mark.parametrize("drawing", ["a -> b", "a -> b; a: locks=warehouse"])
    def test_of_a_skip_and_a_claim_one_wins(self, drawing: str) -> None:
        for _ in range(ROUNDS):
            run = run_of(drawing)

            claimed, skipped = at_once(attempt_of(task_of(run, "a").pk, "w"), skip(run, "a"))

            if isinstance(claimed, Claimed):
                assert isinstance(skipped, TaskIsRunning)
                settle(claimed)
                assert states_of(run)["a"] == "succeeded"
            else:
                assert isinstance(skipped, TaskRun), skipped
                assert state_of(run) == "succeeded"
                assert not LockRequest.objects.filter(task_run__run=run).exists()
            assert len(moves_of(run, "a")) == (4 if isinstance(claimed, Claimed) else 3)

    def test_of_a_mark_and_a_cancellation_each_stands_or_is_refused(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a -> b")

            marked, cancelled = at_once(mark(run, "a"), lambda run=run: cancel_run(run.pk, by="eve"))

            assert isinstance(cancelled, JobRun), cancelled
            if isinstance(marked, TaskRun):
                assert states_of(run) == {"a": "succeeded", "b": "cancelled"}
            else:
                assert isinstance(marked, RunFinal)
                assert states_of(run) == {"a": "cancelled", "b": "cancelled"}
            assert state_of(run) == "cancelled"

    def test_a_mark_of_the_last_task_and_a_cancellation_end_the_run_once(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a")

            marked, cancelled = at_once(mark(run, "a"), lambda run=run: cancel_run(run.pk, by="eve"))

            assert sum(isinstance(one, RunFinal) for one in (marked, cancelled)) == 1
            assert Transition.objects.filter(subject="run", subject_id=run.pk, from_state="running").count() == 1

    def test_two_last_tasks_ended_by_hand_at_once_end_the_run(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a, b")

            results = at_once(skip(run, "a"), mark(run, "b"))

            assert all(isinstance(one, TaskRun) for one in results), results
            assert state_of(run) == "succeeded"

    def test_a_skip_and_a_settle_upstream_of_it_decide_the_join_once(self) -> None:
        for _ in range(ROUNDS):
            run = run_of("a, b -[done]-> c")
            claimed = claim(run, "a")

            at_once(lambda c=claimed: settle(c), skip(run, "b"))

            assert states_of(run)["c"] == "ready"
            assert task_of(run, "c").open_upstreams == 0
            assert moves_of(run, "c") == ["waiting", "ready"]

    def test_a_header_marked_while_the_others_settle_leaves_the_chord_going(self, broker: Broker) -> None:
        for _ in range(ROUNDS):
            broker.__init__()  # type: ignore[misc]  # one fixture, several rounds
            run = run_of("part*4 -> end")
            claims = [claim(run, f"part_{number}") for number in (1, 2, 3)]

            results = at_once(*(lambda c=c: settle(c) for c in claims), mark(run, "part_4"))

            assert not [one for one in results if isinstance(one, Exception)], results
            # Nobody counted for the workers above: their messages come now and find their tasks over.
            Simulation(broker).drain()
            assert state_of(run) == "succeeded"

    def test_pauses_resumes_skips_and_claims_at_once_deadlock_nobody(self) -> None:
        before = deadlocks()
        for _ in range(ROUNDS):
            run = run_of("a, b, c -> d -> e; b: locks=warehouse")
            ids = [task_of(run, name).pk for name in "abc"]

            results = at_once(
                lambda run=run: pause_run(run.pk, by="ada"),
                lambda run=run: resume_run(run.pk, by="ada"),
                skip(run, "b"),
                mark(run, "d"),
                *(attempt_of(id, "w") for id in ids),
            )

            refused = [one for one in results if isinstance(one, Exception)]
            assert all(isinstance(one, UpbeatError) for one in refused), refused
            resume_run(run.pk, by="ada")
            for claimed in results:
                if isinstance(claimed, Claimed):
                    settle(claimed)
            for name in "abce":
                if states_of(run)[name] == "ready":
                    run_task(run, name)
            assert state_of(run) == "succeeded", states_of(run)
        assert deadlocks() == before


class TestRerun:
    def test_two_re_runs_at_once_are_two_runs_with_their_numbers(self) -> None:
        run = failed_run()

        made = at_once(*(lambda: rerun(run.pk, by="ada") for _ in range(4)))

        assert all(isinstance(one, JobRun) for one in made), made
        assert sorted(one.trigger_key for one in made) == [f"rerun:{run.pk}:{number}" for number in (1, 2, 3, 4)]
        assert all(states_of(one) == {"a": "ready", "b": "waiting"} for one in made)

    def test_of_two_that_may_run_it_once_one_is_refused(self) -> None:
        for _ in range(ROUNDS):
            run = failed_run()

            made = at_once(*(lambda run=run: rerun(run.pk, by="ada", once=True) for _ in range(3)))

            assert sum(isinstance(one, JobRun) for one in made) == 1
            assert sum(isinstance(one, AlreadyRerun) for one in made) == 2

    def test_the_same_key_at_once_makes_one_run(self) -> None:
        run = failed_run()
        token: ApiToken = new_token("operate")[0]

        made = at_once(
            *(
                lambda: rerun_once(token=token, key="again", run_id=run.pk, start="failed", mark={}, by="ada")
                for _ in range(5)
            )
        )

        assert len({one.run.pk for one in made}) == 1
        assert sum(one.created for one in made) == 1
        assert JobRun.objects.filter(rerun_of=run).count() == 1

    def test_a_re_run_and_an_archive_at_once_leave_a_run_or_a_refusal(self) -> None:
        for _ in range(ROUNDS):
            job = job_of("a")
            run = run_of(job)
            run_task(run, "a", PERMANENT)

            made, _ = at_once(lambda run=run: rerun(run.pk, by="ada"), lambda job=job: archive_job(job, by="eve"))

            assert isinstance(made, (JobRun, JobArchived)), made
            assert JobRun.objects.filter(rerun_of=run).exists() == isinstance(made, JobRun)

    def test_re_runs_under_a_limit_keep_it(self) -> None:
        job = job_of("a -> b", limit=2)
        runs = [run_of(job) for _ in range(2)]
        for run in runs:
            run_task(run, "a", PERMANENT)

        made = at_once(*(lambda run=run: rerun(run.pk, by="ada") for run in runs * 3))

        assert all(isinstance(one, JobRun) for one in made), made
        assert JobRun.objects.filter(job=job, state="running").count() == 2
        assert JobRun.objects.filter(job=job, state="pending").count() == 4
