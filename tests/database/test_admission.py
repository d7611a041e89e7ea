from __future__ import annotations

import pytest

from orchestrator.models import Job, JobRun, TaskRun, Transition
from orchestrator.services.jobs import pause_job, resume_job
from orchestrator.services.runs import admit_job, launch_runs
from tests.support.factories import age, job_of, run_of, state_of, states_of
from tests.support.simulation import Broker, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_a_run_without_a_limit_starts_at_once(broker: Broker) -> None:
    run = run_of("a -> b")

    assert state_of(run) == "running"
    assert states_of(run) == {"a": "ready", "b": "waiting"}
    assert len(broker.hinted()) == 2, "one message that carries the chain"


def test_the_same_trigger_key_starts_one_run_only() -> None:
    job = job_of("a")

    first = run_of(job, key="deploy-7")
    second = run_of(job, key="deploy-7")

    assert first.pk == second.pk
    assert TaskRun.objects.filter(run=first).count() == 1


def test_a_full_job_holds_further_runs_and_lets_the_oldest_in_first(broker: Broker) -> None:
    job = job_of("a", limit=1)
    first, second, third = (run_of(job) for _ in range(3))
    assert [state_of(run) for run in (first, second, third)] == ["running", "pending", "pending"]

    run_task(first, "a")
    assert [state_of(run) for run in (first, second, third)] == ["succeeded", "running", "pending"]

    run_task(second, "a")
    assert state_of(third) == "running"


def test_a_higher_priority_is_let_in_before_an_older_run() -> None:
    job = job_of("a", limit=1)
    first, older, urgent = (run_of(job) for _ in range(3))
    JobRun.objects.filter(pk=urgent.pk).update(priority=0)

    run_task(first, "a")

    assert [state_of(run) for run in (older, urgent)] == ["pending", "running"]


def test_skip_cancels_a_run_that_does_not_fit_and_says_why() -> None:
    job = job_of("a", limit=1, when_full="skip")
    run_of(job)

    skipped = run_of(job)

    assert (skipped.state, skipped.reason) == ("cancelled", "concurrency_skip")
    assert not TaskRun.objects.filter(run=skipped).exists()


class TestCancelRunning:
    def test_the_new_run_starts_when_the_last_attempt_of_the_old_one_has_ended(self) -> None:
        job = job_of("a -> b", limit=1, when_full="cancel_running")
        old = run_of(job)
        attempt = claim(old, "a")

        new = run_of(job)
        assert [state_of(old), state_of(new)] == ["running", "pending"]
        assert states_of(old) == {"a": "running", "b": "cancelled"}

        settle(attempt)
        old.refresh_from_db()
        assert (old.state, old.reason) == ("cancelled", "concurrency_replaced")
        assert state_of(new) == "running"

    def test_an_old_run_without_an_attempt_gives_way_at_once(self) -> None:
        job = job_of("a", limit=1, when_full="cancel_running")
        old = run_of(job)

        new = run_of(job)

        assert [state_of(old), state_of(new)] == ["cancelled", "running"]

    def test_a_newer_run_replaces_one_that_still_waits(self) -> None:
        job = job_of("a", limit=1, when_full="cancel_running")
        old = run_of(job)
        claim(old, "a")
        waiting = run_of(job)

        newest = run_of(job)

        waiting.refresh_from_db()
        assert (waiting.state, waiting.reason) == ("cancelled", "concurrency_replaced")
        assert state_of(newest) == "pending"

    def test_admitting_again_stops_no_further_run(self) -> None:
        job = job_of("a", limit=2, when_full="cancel_running")
        oldest, older = run_of(job), run_of(job)
        claim(oldest, "a")
        claim(older, "a")
        run_of(job)

        admit_job(job.pk)
        admit_job(job.pk)

        stopping = JobRun.objects.filter(job=job, stop_requested_at__isnull=False)
        assert list(stopping.values_list("pk", flat=True)) == [oldest.pk]


def test_a_paused_job_holds_its_runs_until_it_is_resumed(broker: Broker) -> None:
    job = job_of("a")
    running = run_of(job)
    pause_job(job, by="ada", reason="release")

    held = run_of(job)
    assert (held.state, held.reason) == ("pending", "job is paused")
    run_task(running, "a")
    assert state_of(running) == "succeeded", "running runs go on"

    resume_job(job, by="ada")
    assert state_of(held) == "running"
    held.refresh_from_db()
    assert held.reason == ""


def test_launching_and_admitting_twice_changes_nothing(broker: Broker) -> None:
    run = run_of("a -> b")
    before = (list(JobRun.objects.values()), list(TaskRun.objects.values()), Transition.objects.count())
    broker.published.clear()

    launch_runs([run.pk])
    admit_job(run.job_id)

    assert (list(JobRun.objects.values()), list(TaskRun.objects.values()), Transition.objects.count()) == before
    assert broker.published == []


def test_a_large_dag_is_admitted_by_a_control_worker(broker: Broker) -> None:
    run = run_of("start -> p*250")
    assert state_of(run) == "pending"

    launch_runs([run.pk])

    assert state_of(run) == "running"
    assert TaskRun.objects.filter(run=run).count() == 251


def test_a_raised_limit_lets_held_runs_in(broker: Broker) -> None:
    job = job_of("a", limit=1)
    _, second, third = (run_of(job) for _ in range(3))

    Job.objects.filter(pk=job.pk).update(concurrency_limit=3)
    admit_job(job.pk)

    assert [state_of(second), state_of(third)] == ["running", "running"]


def test_many_pending_runs_are_admitted_in_batches(broker: Broker) -> None:
    job = job_of("a")
    pause_job(job, by="ada", reason="")
    runs = [run_of(job) for _ in range(5)]

    resume_job(job, by="ada")

    assert {state_of(run) for run in runs} == {"running"}


def test_a_held_run_is_let_in_by_the_reconciler_when_there_is_room(broker: Broker) -> None:
    job = job_of("a", limit=1)
    first, second = run_of(job), run_of(job)
    # The process that ended the first run died before it let the next one in.
    JobRun.objects.filter(pk=first.pk).update(state="cancelled")
    age(second, seconds=20)

    assert heal()["unlaunched"] == 1

    assert state_of(second) == "running"
