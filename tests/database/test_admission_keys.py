from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from orchestrator.ledger import admission
from orchestrator.models import Job, JobRun, Transition
from orchestrator.selectors.waiting import why_waiting_run
from orchestrator.services.jobs import pause_job, resume_job
from orchestrator.services.runs import (
    RunRequest,
    admit_job,
    cancel_pending_of_rule,
    cancel_run,
    launch_runs,
    start_runs,
    unlaunched_count,
)
from tests.support.factories import age, job_of
from tests.support.simulation import FAILURE, claim, heal, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = UUID(int=7)
HELD = "an earlier run of its concurrency key is open"


def ask(job: Job, trigger_key: str = "", **fields: Any) -> RunRequest:
    assert job.latest_version_id is not None
    defaults: dict[str, Any] = {"trigger": {"type": "event"}, "logical_date": NOON}
    return RunRequest(
        tenant_id=job.tenant_id, job_id=job.pk, version_id=job.latest_version_id,
        trigger_key=trigger_key or str(uuid4()), **(defaults | fields),
    )  # fmt: skip


def runs_of(job: Job, count: int, *, launch: bool = True, **fields: Any) -> list[JobRun]:
    started = start_runs([ask(job, **({"admission_key": KEY} | fields)) for _ in range(count)])
    ids = [one.run_id for one in started if one.run_id is not None]
    if launch:
        launch_runs(ids)
    return list(JobRun.objects.filter(pk__in=ids).order_by("pk"))


def standings(*runs: JobRun) -> list[str]:
    found = {run.pk: run for run in JobRun.objects.filter(pk__in=[run.pk for run in runs])}
    return [found[run.pk].state + (f" ({found[run.pk].reason})" if found[run.pk].reason else "") for run in runs]


def finish(run: JobRun) -> None:
    run_task(run, "a")


def test_runs_of_a_key_start_one_after_the_other_in_the_order_of_their_ids() -> None:
    runs = runs_of(job_of("a"), 3)
    assert standings(*runs) == ["running", f"pending ({HELD})", f"pending ({HELD})"]

    finish(runs[0])
    assert standings(*runs) == ["succeeded", "running", f"pending ({HELD})"]

    finish(runs[1])
    assert standings(*runs) == ["succeeded", "succeeded", "running"]


def test_the_next_starts_whatever_the_outcome_of_the_one_before() -> None:
    failed, cancelled, last = runs_of(job_of("a"), 3)

    settle(claim(failed, "a"), FAILURE)
    assert standings(failed, cancelled)[1] == "running"

    cancel_run(cancelled.pk, by="ada")
    assert standings(cancelled, last) == ["cancelled (cancelled by ada)", "running"]


def test_cancelling_one_that_waits_for_its_turn_moves_nobody_else() -> None:
    first, second, third = runs_of(job_of("a"), 3)

    cancel_run(second.pk, by="ada")
    assert standings(first, third) == ["running", f"pending ({HELD})"]

    finish(first)
    assert standings(third) == ["running"]


def test_keys_do_not_wait_for_one_another_nor_does_a_run_without_a_key() -> None:
    job = job_of("a")
    runs_of(job, 2)

    other = runs_of(job, 1, admission_key=UUID(int=8))
    plain = runs_of(job, 1, admission_key=None)

    assert standings(*other, *plain) == ["running", "running"]


def test_as_many_of_a_key_as_it_allows_run_at_once() -> None:
    runs = runs_of(job_of("a"), 4, admission_limit=2)
    assert standings(*runs) == ["running", "running", f"pending ({HELD})", f"pending ({HELD})"]

    finish(runs[1])
    assert standings(runs[2], runs[3]) == ["running", f"pending ({HELD})"]


def test_the_key_decides_over_the_priority() -> None:
    job = job_of("a")
    slow = start_runs([ask(job, admission_key=KEY, priority=3)])[0].run_id
    urgent = start_runs([ask(job, admission_key=KEY, priority=0)])[0].run_id
    assert slow is not None
    assert urgent is not None

    launch_runs([urgent])
    rows = [JobRun.objects.get(pk=slow), JobRun.objects.get(pk=urgent)]
    assert standings(*rows) == ["pending", f"pending ({HELD})"], "not before the older one, which nobody launched yet"

    launch_runs([slow])
    finish(rows[0])
    assert standings(*rows) == ["succeeded", "running"]


def test_a_later_run_of_a_key_with_room_starts_once_the_one_before_it_has_started() -> None:
    job = job_of("a")
    first, second = runs_of(job, 2, launch=False, admission_limit=2)

    launch_runs([second.pk])
    assert standings(first, second) == ["pending", f"pending ({HELD})"]

    launch_runs([first.pk])
    assert standings(first, second) == ["running", "running"]


def test_a_run_that_would_rather_not_wait_is_dropped_with_the_reason() -> None:
    job = job_of("a")
    first, second = runs_of(job, 2, admission_drop=True)
    assert standings(first, second) == ["running", "cancelled (concurrency_drop)"]

    finish(first)
    assert standings(*runs_of(job, 1, admission_drop=True)) == ["running"]
    fact = Transition.objects.get(run_id=second.pk, to_state="cancelled")
    assert (fact.reason, fact.cause) == ("concurrency_drop", "admission")


def test_a_hundred_front_runs_that_wait_for_their_key_block_nobody_behind_them() -> None:
    job = job_of("a")
    runs_of(job, admission.BATCH + 20)

    [plain] = runs_of(job, 1, admission_key=None, launch=False)
    admit_job(job.pk)

    assert standings(plain) == ["running"]


def test_the_jobs_own_limit_comes_after_that_of_the_key() -> None:
    job = job_of("a", limit=1)
    first, second = runs_of(job, 2)
    [other] = runs_of(job, 1, admission_key=UUID(int=8))
    assert standings(first, second, other) == [
        "running", f"pending ({HELD})", "pending (as many runs of the job as may are running)",
    ]  # fmt: skip

    finish(first)

    assert standings(second, other) == ["running", "pending (as many runs of the job as may are running)"]
    finish(second)
    assert standings(other) == ["running"]


def test_why_a_run_waits_names_its_key_its_place_and_when_it_gives_up() -> None:
    job = job_of("a")
    soon = timezone.now() + timedelta(hours=1)
    first, second, third = runs_of(job, 3, expires_at=soon)

    held, expiry = why_waiting_run(third.pk)

    assert (held.code, expiry.code) == ("concurrency_key", "expiry")
    assert (
        held.text == f"concurrency 1 of the key of its rule is held by run {first.pk}; 1 run of the key waits before it"
    )
    assert held.facts["runs"] == [first.pk]
    assert expiry.facts["expires_at"] == soon
    assert "it is next" in why_waiting_run(second.pk)[0].text


def test_why_a_run_of_a_paused_job_waits_says_so_first() -> None:
    job = job_of("a")
    pause_job(job, by="ada", reason="release")
    [run] = runs_of(job, 1)

    assert [reason.code for reason in why_waiting_run(run.pk)] == ["job_paused"]


def test_every_held_run_of_a_full_job_has_been_looked_at() -> None:
    runs_of(job_of("a", limit=1), 350, admission_key=None)

    assert unlaunched_count() == (0, 0.0)
    assert JobRun.objects.filter(state="pending", reason="as many runs of the job as may are running").count() == 349


def test_runs_that_nobody_looked_at_are_counted_with_the_age_of_the_oldest() -> None:
    runs = runs_of(job_of("a"), 3, launch=False)
    age(runs[0], seconds=60)

    count, oldest = unlaunched_count()

    assert count == 3
    assert 59 < oldest < 70


class TestOfAPausedJob:
    """What a rule says of its job's pause."""

    def test_a_thousand_runs_wait_with_the_reason_and_start_in_order_when_it_is_resumed(self) -> None:
        job = job_of("a")
        pause_job(job, by="ada", reason="release")
        runs = runs_of(job, 1000, admission_key=None)
        assert set(standings(*runs)) == {"pending (job is paused)"}
        assert unlaunched_count()[0] == 0

        resume_job(job, by="ada")

        assert set(standings(*runs)) == {"running"}
        started = Transition.objects.filter(subject="run", to_state="running").order_by("id")
        assert list(started.values_list("run_id", flat=True)) == [run.pk for run in runs]

    def test_one_that_would_rather_not_wait_ends_cancelled(self) -> None:
        job = job_of("a")
        pause_job(job, by="ada")

        [run] = runs_of(job, 1, drop_when_paused=True)

        assert standings(run) == ["cancelled (job_paused)"]

    def test_dropping_one_gives_the_turn_to_the_next(self) -> None:
        job = job_of("a")
        first, second, third = runs_of(job, 3, drop_when_paused=True)
        pause_job(job, by="ada")

        finish(first)

        assert standings(second, third) == ["cancelled (job_paused)", "cancelled (job_paused)"]

    def test_one_whose_turn_came_meanwhile_starts_when_it_is_resumed(self) -> None:
        job = job_of("a")
        first, second, third = runs_of(job, 3)
        pause_job(job, by="ada")
        finish(first)
        assert standings(second) == ["pending (job is paused)"]

        resume_job(job, by="ada")

        assert standings(second, third) == ["running", f"pending ({HELD})"]


class TestExpiry:
    """A pending run whose rule gives up on it."""

    def test_a_held_run_ends_when_its_time_is_over_and_the_reason_says_so(self) -> None:
        job = job_of("a")
        pause_job(job, by="ada")
        soon = timezone.now() + timedelta(hours=1)
        [held, other] = runs_of(job, 2, admission_key=None, expires_at=soon)
        JobRun.objects.filter(pk=held.pk).update(expires_at=timezone.now() - timedelta(seconds=1))

        heal()

        assert standings(held, other) == ["cancelled (expired)", "pending (job is paused)"]
        assert Transition.objects.get(run_id=held.pk, to_state="cancelled").cause == "timer"

    def test_one_that_is_looked_at_too_late_does_not_start(self) -> None:
        [run] = runs_of(job_of("a"), 1, expires_at=timezone.now() - timedelta(seconds=1))

        assert standings(run) == ["cancelled (expired)"]

    def test_the_end_of_one_gives_the_turn_to_the_next(self) -> None:
        job = job_of("a", limit=1)
        [blocker] = runs_of(job, 1, admission_key=None)
        first, second = runs_of(job, 2)
        JobRun.objects.filter(pk=first.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
        heal()
        assert standings(first)[0] == "cancelled (expired)"

        finish(blocker)

        assert standings(second) == ["running"]

    def test_a_run_that_has_started_does_not_expire(self) -> None:
        [run] = runs_of(job_of("a"), 1, expires_at=timezone.now() + timedelta(hours=1))
        JobRun.objects.filter(pk=run.pk).update(expires_at=timezone.now() - timedelta(seconds=1))

        heal()

        assert standings(run) == ["running"]


def test_the_runs_of_a_deleted_rule_that_have_not_started_are_cancelled_and_no_others() -> None:
    job = job_of("a")
    ids = [
        one.run_id
        for one in start_runs(
            [ask(job, f"rule:5:{event}:0", admission_key=KEY) for event in (1, 2, 3)]
            + [ask(job, "rule:55:1:0", admission_key=UUID(int=9)), ask(job, "rule:5x")]
        )
    ]
    running, *pending, other, odd = [JobRun.objects.get(pk=id) for id in ids]
    launch_runs([running.pk])

    assert cancel_pending_of_rule(tenant_id=job.tenant_id, rule_id=5, by="ada") == 2
    assert cancel_pending_of_rule(tenant_id=job.tenant_id, rule_id=5, by="ada") == 0

    assert standings(running, *pending, other, odd) == [
        "running", "cancelled (rule_deleted)", "cancelled (rule_deleted)", "pending", "pending",
    ]  # fmt: skip


class TestTheReconciler:
    """Whoever should have gone on died before."""

    def test_it_launches_what_nobody_launched_in_a_paused_job_too(self) -> None:
        job, paused = job_of("a"), job_of("a")
        pause_job(paused, by="ada")
        lost = runs_of(job, 3, launch=False)
        held = runs_of(paused, 1, launch=False, admission_key=None)
        age(*lost, *held, seconds=20)

        heal()

        assert standings(*lost, *held) == [
            "running", f"pending ({HELD})", f"pending ({HELD})", "pending (job is paused)",
        ]  # fmt: skip

    def test_it_leaves_a_fresh_run_to_its_launcher(self) -> None:
        [fresh] = runs_of(job_of("a"), 1, launch=False)

        heal()

        assert standings(fresh) == ["pending"]

    def test_it_goes_on_with_a_key_whose_last_run_ended_unseen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = runs_of(job_of("a"), 2)
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator.ledger.claims.after_finish", lambda run: [])
            patch.setattr("orchestrator.ledger.finish.after_finish", lambda run: [])
            finish(first)
        assert standings(first, second) == ["succeeded", f"pending ({HELD})"]

        heal()

        assert standings(second) == ["running"]


def test_order_is_kept_within_each_of_many_keys() -> None:
    job = job_of("a")
    keys = [UUID(int=1000 + number) for number in range(20)]
    started = start_runs([ask(job, admission_key=key) for _ in range(5) for key in keys])
    launch_runs([one.run_id for one in started if one.run_id is not None])

    while running := list(JobRun.objects.filter(state="running").order_by("-pk")):
        assert len(running) == len({run.admission_key for run in running})
        for run in running:
            finish(run)

    order: dict[UUID | None, list[int]] = {}
    facts = Transition.objects.filter(subject="run", to_state="running").order_by("id")
    key_of = dict(JobRun.objects.values_list("pk", "admission_key"))
    for run_id in facts.values_list("run_id", flat=True):
        assert run_id is not None
        order.setdefault(key_of[run_id], []).append(run_id)
    assert all(ids == sorted(ids) and len(ids) == 5 for ids in order.values())
    assert len(order) == 20
