"""Why is it waiting? Each reason made true by the engine, and read back in words."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.api.serializers.waiting import WaitReasonAnswer
from orchestrator.errors import UnknownRun, UnknownTaskRun
from orchestrator.models import JobRun, LaneWorker, LockRequest, TaskRun
from orchestrator.selectors.waiting import WaitReason, why_waiting_run, why_waiting_task
from orchestrator.services.attempts import AttemptEnd, claim_task_run
from orchestrator.services.jobs import pause_job, resume_job
from orchestrator.services.lanes import report_lanes
from orchestrator.services.locks import set_lock
from orchestrator.services.runs import cancel_run, launch_runs, pause_run
from tests.support.factories import age, default_tenant, job_of, run_of, state_of, states_of, task_of
from tests.support.records import token_text
from tests.support.simulation import FAILURE, Broker, claim, heal, result_of, run_task, settle

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

ROOT = Path(__file__).resolve().parents[2]
LOAD = "load; load: locks=warehouse"
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.fixture(autouse=True)
def _worker(db: None) -> None:
    """One worker of four slots takes from the default lane."""
    report_lanes("w1@host", ["default"], 4)


def task(run: JobRun, name: str) -> tuple[WaitReason, ...]:
    return why_waiting_task(task_of(run, name).pk)


def said(reason: WaitReason) -> str:
    """The text, its moments as T."""
    return MOMENT.sub("T", reason.text)


def codes(reasons: tuple[WaitReason, ...]) -> list[str]:
    return [reason.code for reason in reasons]


class TestRun:
    def test_pending_because_its_job_is_paused(self) -> None:
        job = job_of("a")
        pause_job(job, by="user:ada", reason="the warehouse moves")
        job.refresh_from_db()

        (reason,) = why_waiting_run(run_of(job).pk)

        assert said(reason) == f"the job {job.name} is paused since T by user:ada: the warehouse moves"
        assert (reason.code, reason.since) == ("job_paused", job.paused_at)

    def test_pending_because_others_hold_its_jobs_concurrency(self) -> None:
        job = job_of("a", limit=2)
        first, second, third, fourth = (run_of(job) for _ in range(4))

        (reason,) = why_waiting_run(fourth.pk)

        assert said(reason) == (
            f"concurrency 2 of the job {job.name} is held by run {first.pk} (running since T), run {second.pk} "
            "(running since T); 1 run waits before it"
        )
        assert reason.code == "concurrency"
        assert (reason.facts["runs"], reason.facts["ahead"]) == ([first.pk, second.pk], 1)
        assert "it is next" in why_waiting_run(third.pk)[0].text

    def test_the_pause_of_the_job_binds_more_than_its_concurrency(self) -> None:
        job = job_of("a", limit=1)
        run_of(job)
        pause_job(job, by="user:ada", reason="")

        assert codes(why_waiting_run(run_of(job).pk)) == ["job_paused", "concurrency"]

    def test_pending_and_about_to_be_admitted(self) -> None:
        job = job_of("a")
        pause_job(job, by="ada", reason="")
        run = run_of(job)
        JobRun.objects.filter(pk=run.pk).update(reason="")
        type(job).objects.filter(pk=job.pk).update(paused_at=None)  # resumed, and the launch was lost

        (reason,) = why_waiting_run(run.pk)
        assert reason.code == "launch"
        assert reason.facts["healed_at"] == run.created_at + timedelta(seconds=15)

        age(run, seconds=16)
        assert heal()["unlaunched"] == 1
        assert state_of(run) == "running"

    def test_paused(self) -> None:
        run = run_of("a -> b")
        pause_run(run.pk, by="user:ada", reason="look first")
        run.refresh_from_db()

        reasons = why_waiting_run(run.pk)

        assert said(reasons[0]).startswith(f"run {run.pk} is paused since T")
        assert said(reasons[0]).endswith(": look first")
        assert (reasons[0].code, reasons[0].since) == ("run_paused", run.paused_at)
        assert codes(task(run, "a"))[0] == "run_paused"
        assert codes(task(run, "b"))[:2] == ["run_paused", "dependency"]

    def test_asked_to_stop_and_waiting_for_its_running_task(self) -> None:
        run = run_of("a, b")
        attempt = claim(run, "a")
        cancel_run(run.pk, by="ada", reason="wrong day")

        reasons = why_waiting_run(run.pk)

        assert said(reasons[0]) == f"run {run.pk} is asked to stop since T: wrong day; it ends with its running tasks"
        assert codes(task(run, "a")) == ["stop_requested", "running"]
        assert codes(task(run, "b")) == ["final"]
        settle(attempt)
        assert codes(why_waiting_run(run.pk)) == ["final"]

    def test_running_names_what_runs_and_counts_the_rest(self) -> None:
        run = run_of("a, b -> c")
        claim(run, "a", worker="w1@host/7.1")

        reasons = why_waiting_run(run.pk)

        assert codes(reasons) == ["running", "tasks"]
        assert said(reasons[0]) == "a runs since T on w1@host/7.1 (attempt 1)"
        assert reasons[1].text == "open tasks: 1 waiting, 1 ready, 1 running"

    def test_with_nothing_running_its_ready_tasks_say_why(self) -> None:
        holder, run = run_of(LOAD), run_of(LOAD)

        reasons = why_waiting_run(run.pk)

        assert codes(reasons) == ["lock", "tasks"]
        assert f"held by run {holder.pk} load since" in reasons[0].text
        assert reasons[0].facts["task_run"] == task_of(run, "load").pk

    def test_between_two_steps_it_says_until_when(self) -> None:
        run = run_of("p*4 -> end")
        for number in range(1, 5):
            run_task(run, f"p_{number}")

        (reason,) = why_waiting_run(run.pk)
        assert reason.code == "planning"
        assert codes(task(run, "end")) == ["planning"]

        age(run, seconds=6)
        heal()
        assert states_of(run)["end"] == "ready"

    def test_ended(self) -> None:
        run = run_of("a")
        run_task(run, "a", FAILURE)

        (reason,) = why_waiting_run(run.pk)

        assert said(reason) == f"run {run.pk} ended failed at T: a failed"
        assert (reason.code, reason.facts["state"]) == ("final", "failed")

    def test_unknown(self) -> None:
        with pytest.raises(UnknownRun):
            why_waiting_run(10**9)
        with pytest.raises(UnknownTaskRun):
            why_waiting_task(10**9)


class TestDependencies:
    def test_an_upstream_that_runs(self) -> None:
        run = run_of("extract -> load")
        claim(run, "extract", worker="w1@host/7.1")

        (reason,) = task(run, "load")

        assert said(reason) == "load waits for extract (extract runs since T on w1@host/7.1 (attempt 1))"
        assert reason.code == "dependency"
        assert reason.facts["because"]["code"] == "running"

    def test_an_upstream_that_waits_says_its_own_reason_one_level_deep(self) -> None:
        holder = run_of(LOAD)
        run = run_of("extract -> load -> report; extract: locks=warehouse")

        assert said(task(run, "load")[0]) == (
            f"load waits for extract (extract waits for the lock warehouse (capacity 1), held by run {holder.pk} load "
            "since T; it is next)"
        )
        assert said(task(run, "report")[0]) == "report waits for load (load waits for extract)"

    def test_of_many_upstreams_those_that_move_come_first_and_the_rest_is_counted(self) -> None:
        run = run_of("a -> b; b, p*9 -> end")

        reason = task(run, "end")[0]

        assert (reason.facts["count"], reason.facts["tasks"]) == (10, ["p_1", "p_2", "p_3"]), "b itself only waits"
        assert reason.text.startswith("end waits for p_1, p_2, p_3 and 7 more (p_1 is about to start")

    def test_any(self) -> None:
        run = run_of("a, b -> end; end: join=any")
        run_task(run, "a", FAILURE)

        (reason,) = task(run, "end")

        assert reason.code == "dependency_any"
        assert said(reason).startswith(
            "end waits for any one of b (join: any); what has ended so far opened nothing (b "
        )
        assert reason.since == JobRun.objects.get(pk=run.pk).started_at

    def test_a_condition_that_closed_is_the_reason_of_a_skipped_task(self) -> None:
        run = run_of("count -[when: results.count.n > 0]-> publish")
        run_task(run, "count", result_of({"n": 0}))

        (reason,) = task(run, "publish")

        assert said(reason) == "publish was skipped at T: condition on count is false: results.count.n > 0"
        assert (reason.code, reason.facts["state"]) == ("final", "skipped")

    def test_a_task_whose_upstream_failed_says_which(self) -> None:
        run = run_of("a -> b")
        run_task(run, "a", FAILURE)

        assert said(task(run, "b")[0]) == "b ended upstream_failed at T: a ended failed, needed success"


class TestLocks:
    def test_who_holds_it_since_when_and_how_many_wait_before(self) -> None:
        holder, second, third = (run_of(LOAD) for _ in range(3))
        claim(holder, "load")

        (reason,) = task(third, "load")

        assert said(reason) == (
            f"load waits for the lock warehouse (capacity 1), held by run {holder.pk} load since T; 1 other waits before it"
        )
        assert (reason.code, reason.facts["position"]) == ("lock", 2)
        assert reason.facts["holders"][0]["run"] == holder.pk
        assert "it is next" in task(second, "load")[0].text

    def test_many_holders_are_counted(self) -> None:
        set_lock(tenant=default_tenant(), name="warehouse", capacity=5, by="ada")
        for _ in range(5):
            run_of(LOAD)

        assert "and 2 more" in task(run_of(LOAD), "load")[0].text

    def test_a_vanished_holder_says_when_its_lock_is_free(self) -> None:
        holder, second = run_of(LOAD), run_of(LOAD)
        claim(holder, "load")
        age(holder, seconds=16)
        heal()

        assert f"held by run {holder.pk} load, whose worker vanished (free at T); it is next" in said(
            task(second, "load")[0]
        )

    def test_a_free_lock_that_is_kept_for_who_waits_for_another_one(self) -> None:
        run_of("t; t: locks=a")
        both = run_of("t; t: locks=a,b")
        third = run_of("t; t: locks=b")

        (reason,) = task(third, "t")

        assert reason.text == (
            f"t waits for the lock b, which is free but kept for run {both.pk} t: that one waits for another lock; "
            "1 other waits before it"
        )
        assert codes(task(both, "t")) == ["lock"], "b is free for it; a is what it waits for"

    def test_a_free_slot_that_nobody_granted_yet(self) -> None:
        first, second = run_of(LOAD), run_of(LOAD)
        LockRequest.objects.filter(task_run__run=first).delete()

        assert codes(task(second, "load")) == ["lock_free"]

        assert heal()["lock_free"] == 1
        assert codes(task(second, "load")) == ["starting"]


class TestLane:
    def test_no_live_worker(self) -> None:
        LaneWorker.objects.all().delete()
        run = run_of("a")

        (reason,) = task(run, "a")
        assert (reason.code, reason.text) == ("no_worker", "a is ready, and the lane default has no live worker")

        report_lanes("w1@host", ["default"], 2)
        assert codes(task(run, "a")) == ["starting"]
        LaneWorker.objects.update(seen_at=F("seen_at") - timedelta(seconds=31))
        (reason,) = task(run, "a")
        assert said(reason) == "a is ready, and the lane default has no live worker; the last one was seen at T"

    def test_a_lane_of_its_own_needs_a_worker_of_its_own(self) -> None:
        run = run_of("a; a: pool=bulk")

        assert "the lane bulk has no live worker" in task(run, "a")[0].text

    def test_all_slots_are_busy(self) -> None:
        report_lanes("w1@host", ["default"], 2)
        run = run_of("a, b, c, d")
        claim(run, "a")
        claim(run, "b")

        (reason,) = task(run, "d")

        assert (reason.code, reason.text) == (
            "lane_busy", "d is ready, and the lane default is busy: 2 slots, 2 running, 1 ready before it",
        )  # fmt: skip

    def test_urgent_work_ahead(self) -> None:
        report_lanes("w1@host", ["default"], 1)
        run = run_of("a")
        urgent = run_of("x, y; x: priority=P0; y: priority=P0")
        claim(urgent, "x")

        reasons = task(run, "a")

        assert codes(reasons) == ["lane_busy", "priority"]
        assert reasons[1].text == "1 task of higher priority than a (P2) is ready in the lane default"
        assert reasons[0].facts["ahead"] == 1

    def test_work_of_a_paused_run_and_waiters_for_locks_are_not_ahead(self) -> None:
        report_lanes("w1@host", ["default"], 1)
        paused = run_of("x, y; x: priority=P0; y: priority=P0")
        pause_run(paused.pk, by="ada")
        run_of("l; l: locks=warehouse")
        run_of("m; m: locks=warehouse priority=P0")
        run = run_of("a")
        claim(run_of("b; b: priority=P0"), "b")

        (reason,) = task(run, "a")

        assert (reason.code, reason.facts["ahead"]) == ("lane_busy", 0)

    def test_a_fresh_message_with_a_free_slot(self) -> None:
        run = run_of("a")

        (reason,) = task(run, "a")

        row = task_of(run, "a")
        assert reason.code == "starting"
        assert reason.facts["healed_at"] == row.hint_published_at + timedelta(seconds=15)

    def test_a_lost_message_is_healed_when_it_says(self, broker: Broker) -> None:
        run = run_of("a")
        broker.waiting.clear()
        age(run, seconds=16)

        (reason,) = task(run, "a")
        assert reason.code == "hint_lost"
        assert reason.facts["healed_at"] <= timezone.now()

        assert heal()["lost_hint"] == 1
        (reason,) = task(run, "a")
        assert reason.code == "starting"
        row = task_of(run, "a")
        assert reason.facts["healed_at"] == row.hint_published_at + timedelta(seconds=30), "the pause has doubled"


class TestTimed:
    def test_a_retry_that_is_due_later(self) -> None:
        run = run_of("a; a: attempts=3 delay=60")
        run_task(run, "a", FAILURE)

        (reason,) = task(run, "a")

        assert said(reason) == "a: the next attempt is due at T; attempt 1 failed: exit code 1"
        assert (reason.code, reason.facts["due_at"]) == ("retry", task_of(run, "a").due_at)

    def test_a_retry_that_is_due_waits_for_a_worker_as_any_other(self) -> None:
        LaneWorker.objects.all().delete()
        run = run_of("a; a: attempts=3 delay=60")
        run_task(run, "a", FAILURE)
        age(run, seconds=61)

        assert codes(task(run, "a")) == ["retry", "no_worker"]

    def test_a_lost_attempt_of_an_idempotent_task(self) -> None:
        run = run_of("a; a: idempotent locks=warehouse")
        claim(run, "a", worker="w9@host/1.1")
        age(run, seconds=16)
        (silent, running) = task(run, "a")
        assert (silent.code, running.code) == ("worker_silent", "running")

        heal()

        assert "attempt 1 lost: lost: w9@host/1.1 did not renew its lease" in task(run, "a")[0].text

    def test_deferred(self) -> None:
        run = run_of("a")
        settle(claim(run, "a"), AttemptEnd(defer_seconds=300, reason="until tomorrow"))

        (reason,) = task(run, "a")

        assert said(reason).startswith("a is deferred: attempt 1 goes on later and is due at T")
        assert (reason.code, reason.facts["due_at"]) == ("deferred", task_of(run, "a").due_at)

    def test_succeeded(self) -> None:
        run = run_of("a -> b")
        run_task(run, "a")

        assert said(task(run, "a")[0]) == "a succeeded at T"


class TestCost:
    @pytest.fixture
    def wide(self) -> JobRun:
        """10,000 tasks: 4,998 behind one that runs and before one that joins them, as many ready ones in the lane."""
        run = run_of("start, q*5000 -> end; start -> p*4998 -> join")
        launch_runs([run.pk])
        return run

    @pytest.mark.slow
    def test_a_run_of_10000_tasks_is_answered_in_a_few_queries_and_50_ms(self, wide: JobRun) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("analyze")
        claim(wide, "start")
        report_lanes("w1@host", ["default"], 1)

        for name in ("end", "join", "q_4000", "p_77", "start"):
            id = task_of(wide, name).pk
            seconds, queries = _cost(lambda id=id: why_waiting_task(id))
            assert queries <= 12, name
            assert seconds < 0.5, f"{name}: {seconds}"
        seconds, queries = _cost(lambda: why_waiting_run(wide.pk))
        assert queries <= 20
        assert seconds < 1

    def test_the_number_of_queries_does_not_follow_the_size(self) -> None:
        counts = []
        for width in (5, 50):
            run = run_of(f"start -> p*{width} -> end; start: locks=warehouse")
            counts.append(
                (_cost(lambda run=run: why_waiting_run(run.pk))[1], _cost(lambda run=run: task(run, "end"))[1])
            )
            cancel_run(run.pk, by="ada")

        assert counts[0] == counts[1]


def _cost(ask: Any) -> tuple[float, int]:
    """The best time of some tries, and the queries: a busy neighbour makes any one of them slow."""
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        ask()
        best = min(best, time.perf_counter() - began)
        if best < 0.04:
            break
    with CaptureQueriesContext(connection) as captured:
        ask()
    return best, len(captured)


class TestApi:
    def test_the_items_come_most_binding_first(self, client: Any) -> None:
        holder, run = run_of(LOAD), run_of(LOAD)
        headers = {"Authorization": f"Bearer {token_text('read')}"}

        of_run = client.get(f"/api/v1/runs/{run.pk}/waiting", headers=headers).json()
        of_task = client.get(f"/api/v1/task-runs/{task_of(run, 'load').pk}/waiting", headers=headers).json()

        assert [item["code"] for item in of_run["items"]] == ["lock", "tasks"]
        (item,) = of_task["items"]
        assert set(item) == {"code", "text", "since", "facts"}
        assert item["facts"]["holders"][0]["run"] == holder.pk
        assert item["since"].endswith("Z")

    def test_it_is_for_those_who_may_read_the_job(self, client: Any) -> None:
        run, other = run_of("a"), run_of("b")
        headers = {"Authorization": f"Bearer {token_text('read', jobs=(other.job.name,))}"}

        assert client.get(f"/api/v1/runs/{run.pk}/waiting", headers=headers).status_code == 403
        assert client.get(f"/api/v1/task-runs/{task_of(run, 'a').pk}/waiting", headers=headers).status_code == 403
        assert client.get("/api/v1/runs/987654321/waiting", headers=headers).status_code == 404


def test_the_pages_of_the_admin_say_it(admin_client: Any) -> None:
    holder, run = run_of(LOAD), run_of(LOAD)
    waiter = task_of(run, "load").pk

    for path in (f"jobrun/{run.pk}", f"taskrun/{waiter}"):
        page = admin_client.get(f"/admin/orchestrator/{path}/change/").content.decode()
        assert f"held by run {holder.pk} load since" in page


def test_a_claim_makes_the_reason_go_away() -> None:
    run = run_of("a")
    claim_task_run(task_of(run, "a").pk, worker="w1@host/1.1")

    assert codes(task(run, "a")) == ["running"]
    assert TaskRun.objects.get(run=run).state == "running"
    resume_job(run.job, by="ada")


def test_the_docs_and_the_document_of_the_api_name_every_code() -> None:
    folder = ROOT / "orchestrator" / "selectors" / "waiting"
    used = {
        code
        for path in folder.glob("*.py")
        for found in re.finditer(r'WaitReason\(\s*"(\w+)"', path.read_text())
        for code in found.groups()
    }
    documented = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", (ROOT / "docs/locks.md").read_text())))
    )
    described = re.findall(r"\w+", str(WaitReasonAnswer().fields["code"].help_text).partition(":")[2])

    assert used <= documented
    assert used == set(described)
