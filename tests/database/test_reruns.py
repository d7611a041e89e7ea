"""A run that has ended is run again, whole or in part, as a new run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import ProtectedError

from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec
from orchestrator.errors import AlreadyRerun, InvalidRequest, JobArchived, NothingToRerun, RunOpen, UnknownRun
from orchestrator.models import JobRun, TaskRun, Transition
from orchestrator.services.attempts import task_of as task_of_attempt
from orchestrator.services.jobs import archive_job, pause_job, resume_job
from orchestrator.services.retention import prune_runs
from orchestrator.services.runs import cancel_run, launch_runs
from orchestrator.services.steering import Start, rerun, skip_task
from orchestrator.store import StoreFull, store_of_process
from tests.support.factories import age, job_of, run_of, state_of, states_of, task_of
from tests.support.simulation import (
    PERMANENT,
    SUCCESS,
    AttemptEnd,
    Broker,
    Simulation,
    heal,
    result_of,
    run_task,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def play(broker: Broker, run: JobRun, ends: Mapping[str, AttemptEnd] | None = None) -> JobRun:
    """Play a run to its end; tasks end as `ends` say, others succeed."""
    ends = ends or {}
    Simulation(broker, lambda claimed: ends.get(task_of_attempt(claimed).name, SUCCESS)).drain()
    return JobRun.objects.get(pk=run.pk)


def again(run: JobRun, start: Start = "failed", **more: Any) -> JobRun:
    return rerun(run.pk, start=start, by="ada", **more)


class TestWhatRunsAgain:
    def test_from_failed_the_good_part_is_taken_over_and_the_rest_runs(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c; a -> d"), {"b": PERMANENT, "a": result_of({"n": 1})})
        assert states_of(first) == {"a": "succeeded", "b": "failed", "c": "upstream_failed", "d": "succeeded"}

        second = again(first, reason="fixed the disk")

        assert states_of(second) == {"a": "succeeded", "b": "ready", "c": "waiting", "d": "succeeded"}
        a = task_of(second, "a")
        assert (a.carried_from_id, a.result, a.attempt_count) == (task_of(first, "a").pk, {"n": 1}, 0)
        assert a.reason == f"carried from run {first.pk}"
        assert state_of(play(broker, second)) == "succeeded"
        assert set(states_of(second).values()) == {"succeeded"}
        assert state_of(first) == "failed"

    def test_the_new_run_is_the_same_version_parameters_event_and_date_under_a_numbered_key(
        self, broker: Broker
    ) -> None:
        job = job_of("a")
        first = play(broker, run_of(job))
        JobRun.objects.filter(pk=first.pk).update(event={"type": "x"}, parameters={"n": 5}, priority=1)
        first.refresh_from_db()

        second, third = again(first, "start", reason="why not"), again(first, "start")

        for field in ("job_id", "version_id", "parameters", "event", "logical_date", "priority"):
            assert getattr(second, field) == getattr(first, field)
        assert (second.rerun_of_id, second.trigger_key) == (first.pk, f"rerun:{first.pk}:1")
        assert third.trigger_key == f"rerun:{first.pk}:2"
        assert second.trigger == {
            "kind": "rerun", "by": "ada", "of": first.pk, "from": "start", "mark": {}, "reason": "why not",
        }  # fmt: skip
        fact = Transition.objects.get(subject="run", subject_id=second.pk, to_state="pending")
        assert (fact.reason, fact.cause, fact.by) == ("why not", "rerun", "ada")

    def test_chosen_tasks_run_again_with_all_downstream(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c; a -> d"))

        second = again(first, ["b"])

        assert states_of(second) == {"a": "succeeded", "b": "ready", "c": "waiting", "d": "succeeded"}

    def test_a_fan_out_is_repeated_as_a_chord_and_its_carried_parts_count(self, broker: Broker) -> None:
        first = play(broker, run_of("start -> part*6 -> end"), {"part_2": PERMANENT, "part_5": PERMANENT})

        second = again(first)

        assert [name for name, state in states_of(second).items() if state == "ready"] == ["part_2", "part_5"]
        assert state_of(play(broker, second)) == "succeeded"
        third = again(second, ["start"])
        assert state_of(play(broker, third)) == "succeeded"

    def test_a_re_run_of_a_re_run_points_at_what_was_really_executed(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c"), {"b": PERMANENT})
        second = play(broker, again(first), {"c": PERMANENT})

        third = again(second)

        assert states_of(third) == {"a": "succeeded", "b": "succeeded", "c": "ready"}
        assert task_of(third, "a").carried_from_id == task_of(first, "a").pk
        assert task_of(third, "b").carried_from_id == task_of(second, "b").pk
        assert task_of(third, "a").reason == f"carried from run {first.pk}"

    def test_a_run_that_never_started_runs_whole(self, broker: Broker) -> None:
        job = job_of("a -> b")
        pause_job(job, by="ada", reason="")
        first = run_of(job)
        cancel_run(first.pk, by="ada")
        resume_job(job, by="ada")

        assert states_of(again(first)) == {"a": "ready", "b": "waiting"}


class TestBranches:
    def test_a_skipped_branch_outside_keeps_closing_what_it_closed(self, broker: Broker) -> None:
        drawing = """
            count -[when: results.count.n > 5]-> many
            count -[when: results.count.n < 6]-> few
            many -> report
            few -> report
            report: join=any
            many, few -[done]-> clean
        """
        first = play(broker, run_of(drawing), {"count": result_of({"n": 1}), "few": PERMANENT})
        assert states_of(first) == {
            "count": "succeeded", "many": "skipped", "few": "failed", "report": "upstream_failed",
            "clean": "succeeded",
        }  # fmt: skip

        second = again(first)

        assert states_of(second) == {
            "count": "succeeded", "many": "skipped", "few": "ready", "report": "waiting", "clean": "waiting",
        }  # fmt: skip
        play(broker, second)
        assert state_of(second) == "succeeded"
        assert states_of(second)["many"] == "skipped"
        assert states_of(second)["report"] == "succeeded"

    def test_a_condition_reads_the_carried_result(self, broker: Broker) -> None:
        first = play(broker, run_of("a -[when: results.a.n > 5]-> b"), {"a": result_of({"n": 9}), "b": PERMANENT})

        second = again(first, ["b"])

        assert states_of(second) == {"a": "succeeded", "b": "ready"}

    def test_a_failure_outside_the_chosen_part_still_fails_the_run(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b; x -> y"), {"a": PERMANENT})

        second = play(broker, again(first, ["x"]))

        assert (second.state, second.reason) == ("failed", "a failed")
        assert states_of(second) == {"a": "failed", "b": "upstream_failed", "x": "succeeded", "y": "succeeded"}
        assert task_of(second, "a").reason.startswith(f"carried from run {first.pk}: bad config")

    def test_a_failure_outside_that_was_recovered_stays_forgiven(self, broker: Broker) -> None:
        first = play(broker, run_of("a -[failed recovers]-> fallback; x"), {"a": PERMANENT})
        assert first.state == "succeeded"

        assert play(broker, again(first, ["x"])).state == "succeeded"

    def test_a_chosen_task_below_one_that_never_ended_well_ends_as_the_contract_says(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c -> d"), {"a": PERMANENT})

        second = again(first, ["c"])

        assert states_of(second) == {
            "a": "failed", "b": "upstream_failed", "c": "upstream_failed", "d": "upstream_failed",
        }  # fmt: skip
        assert (second.state, state_of(second)) == ("failed", "failed")
        assert not TaskRun.objects.filter(run=second, planned_at=None).exists()


class TestMarks:
    def test_a_failed_task_marked_as_succeeded_lets_the_rest_go_on(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c"), {"b": PERMANENT})

        second = again(first, mark={"b": "succeeded"}, reason="loaded by hand")

        assert states_of(second) == {"a": "succeeded", "b": "succeeded", "c": "ready"}
        b = task_of(second, "b")
        assert (b.reason, b.carried_from_id) == ("marked as succeeded by ada: loaded by hand", None)
        fact = Transition.objects.get(subject="task_run", subject_id=b.pk)
        assert (fact.from_state, fact.to_state, fact.cause, fact.by) == ("waiting", "succeeded", "mark", "ada")
        assert play(broker, second).state == "succeeded"

    def test_a_skip_ends_a_run_in_which_nothing_is_left(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c"), {"b": PERMANENT})

        second = again(first, mark={"b": "skipped"})

        assert states_of(second) == {"a": "succeeded", "b": "skipped", "c": "skipped"}
        assert (second.state, state_of(second)) == ("succeeded", "succeeded")
        assert Transition.objects.filter(subject="run", subject_id=second.pk, to_state="succeeded").count() == 1

    def test_a_whole_re_run_may_leave_out_a_task_and_keep_its_result(self, broker: Broker) -> None:
        first = play(broker, run_of("a -[when: results.a.n > 5]-> b"), {"a": result_of({"n": 9})})

        second = again(first, "start", mark={"a": "succeeded"})

        assert states_of(second) == {"a": "succeeded", "b": "ready"}
        assert task_of(second, "a").result == {"n": 9}

    def test_a_mark_may_stand_below_what_runs_again(self, broker: Broker) -> None:
        first = play(broker, run_of("a -> b -> c"), {"a": PERMANENT})

        second = again(first, "start", mark={"b": "skipped"})

        assert states_of(second) == {"a": "ready", "b": "skipped", "c": "skipped"}
        assert play(broker, second).state == "succeeded"


class TestAdmission:
    def test_a_paused_job_holds_its_re_run(self, broker: Broker) -> None:
        job = job_of("a -> b")
        first = play(broker, run_of(job), {"b": PERMANENT})
        pause_job(job, by="ada", reason="")

        second = again(first)

        assert (second.state, second.reason) == ("pending", "job is paused")
        assert states_of(second) == {}
        resume_job(job, by="ada")
        assert states_of(second) == {"a": "succeeded", "b": "ready"}

    def test_a_full_job_holds_its_re_run_until_there_is_room(self, broker: Broker) -> None:
        job = job_of("a -> b", limit=1)
        first = play(broker, run_of(job), {"b": PERMANENT})
        other = run_of(job)

        second = again(first)
        assert second.state == "pending"

        play(broker, other)
        assert states_of(second) == {"a": "succeeded", "b": "succeeded"}

    def test_a_full_job_that_skips_says_so(self, broker: Broker) -> None:
        job = job_of("a", limit=1, when_full="skip")
        first = play(broker, run_of(job), {"a": PERMANENT})
        run_of(job)

        second = again(first)

        assert (second.state, second.reason) == ("cancelled", "concurrency_skip")

    def test_a_re_run_that_is_over_at_once_leaves_its_room_to_the_next(self, broker: Broker) -> None:
        job = job_of("a", limit=1)
        first = play(broker, run_of(job), {"a": PERMANENT})
        pause_job(job, by="ada", reason="")
        over, following, last = again(first, mark={"a": "skipped"}), run_of(job), run_of(job)

        resume_job(job, by="ada")

        assert [state_of(run) for run in (over, following, last)] == ["succeeded", "running", "pending"]

    def test_a_lost_launch_is_healed(self, broker: Broker) -> None:
        spec = JobSpec("wide", tasks=tuple(TaskSpec(f"t{n}", "noop") for n in range(250)))
        first = run_of(job_of(spec))
        launch_runs([first.pk])
        for name in ("t3", "t7"):
            run_task(first, name, PERMANENT)
        play(broker, first)
        broker.waiting.clear()

        second = again(first)
        assert second.state == "pending"
        broker.waiting.clear()
        JobRun.objects.filter(pk=second.pk).update(created_at=first.created_at.replace(year=2020))
        heal()

        assert [name for name, state in states_of(second).items() if state == "ready"] == ["t3", "t7"]


class TestResults:
    def test_a_large_result_is_copied_so_that_it_goes_with_its_run(self, broker: Broker) -> None:
        store = store_of_process()
        first = run_of("a -> b")
        old = store.put(first.pk, b'"large"')
        play(broker, first, {"a": AttemptEnd(result_ref=old), "b": PERMANENT})

        second = again(first)
        store.delete_runs([first.pk])

        new = task_of(second, "a").result_ref
        assert new != old
        assert store.get(new) == b'"large"'

    def test_copies_made_before_the_admission_are_used_by_it(self, broker: Broker) -> None:
        job = job_of("a -> b")
        store = store_of_process()
        first = run_of(job)
        old = store.put(first.pk, b'"large"')
        play(broker, first, {"a": AttemptEnd(result_ref=old), "b": PERMANENT})
        pause_job(job, by="ada", reason="")
        second = again(first)

        resume_job(job, by="ada")

        assert f"/{second.pk}/" in task_of(second, "a").result_ref

    def test_a_re_run_outlives_the_run_it_came_from(self, broker: Broker) -> None:
        store = store_of_process()
        first = run_of("a -> b")
        play(broker, first, {"a": AttemptEnd(result_ref=store.put(first.pk, b'"large"')), "b": PERMANENT})
        second = play(broker, again(first), {"b": PERMANENT})
        age(first, seconds=100 * 86_400)

        assert prune_runs(older_than=timedelta(days=90)) == 1

        third = again(second)
        assert states_of(third) == {"a": "succeeded", "b": "ready"}
        assert store.get(task_of(third, "a").result_ref) == b'"large"'
        assert task_of(third, "a").carried_from_id == task_of(second, "a").pk

    def test_a_run_stays_while_its_re_run_still_has_to_start(self, broker: Broker) -> None:
        job = job_of("a -> b")
        first = play(broker, run_of(job), {"b": PERMANENT})
        pause_job(job, by="ada", reason="")
        second = again(first)
        age(first, seconds=100 * 86_400)

        assert prune_runs(older_than=timedelta(days=90)) == 0

        resume_job(job, by="ada")
        assert states_of(second) == {"a": "succeeded", "b": "ready"}

    def test_a_store_that_fails_leaves_the_re_run_with_the_old_results(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = store_of_process()
        first = run_of("a -> b")
        old = store.put(first.pk, b'"large"')
        play(broker, first, {"a": AttemptEnd(result_ref=old), "b": PERMANENT})

        def refuse(*_: Any) -> str:
            raise StoreFull("the store is full")

        monkeypatch.setattr(type(store), "put", refuse)

        assert task_of(again(first), "a").result_ref == old
        with pytest.raises(ProtectedError):
            first.delete()


class TestRefusals:
    def test_only_a_run_that_has_ended_can_be_run_again(self) -> None:
        run = run_of("a")

        with pytest.raises(RunOpen, match="is running"):
            again(run, "start")
        with pytest.raises(UnknownRun):
            rerun(2**40, start="start", by="ada")
        assert JobRun.objects.count() == 1

    def test_an_archived_job_runs_nothing_again(self, broker: Broker) -> None:
        job = job_of("a")
        run = play(broker, run_of(job))
        archive_job(job, by="ada")

        with pytest.raises(JobArchived):
            again(run, "start")

    def test_a_run_without_failure_has_nothing_to_run_again(self, broker: Broker) -> None:
        run = play(broker, run_of("a"))

        with pytest.raises(NothingToRerun):
            again(run)

    def test_unknown_tasks_and_marks_are_named_all_at_once(self, broker: Broker) -> None:
        run = play(broker, run_of("a -> b"))

        with pytest.raises(InvalidRequest) as refused:
            again(run, ["a", "x"], mark={"y": "succeeded", "b": "failed"})
        assert [(d.path, d.value) for d in refused.value.details] == [
            ("from[1]", "x"), ("mark.y", "y"), ("mark.b", "failed"),
        ]  # fmt: skip
        with pytest.raises(InvalidRequest):
            again(run, [])
        with pytest.raises(InvalidRequest):
            again(run, "middle")

    def test_once_refuses_the_second(self, broker: Broker) -> None:
        run = play(broker, run_of("a"), {"a": PERMANENT})
        second = again(run, once=True)

        with pytest.raises(AlreadyRerun, match=f"run {second.pk}"):
            again(run, once=True)

    def test_a_re_run_can_be_steered_like_any_run(self, broker: Broker) -> None:
        run = play(broker, run_of("a -> b"), {"a": PERMANENT})
        second = again(run)

        skip_task(task_of(second, "a").pk, by="ada")

        assert state_of(second) == "succeeded"


@pytest.mark.parametrize("failed", [1, 5000])
def test_a_re_run_of_ten_thousand_tasks_is_admitted_in_three_seconds(broker: Broker, failed: int) -> None:
    count = 10_000
    spec = JobSpec(
        "huge",
        tasks=(
            TaskSpec("root", "noop"),
            *(TaskSpec(f"t{n}", "noop", depends_on=(DependencySpec("root"),)) for n in range(count - 2)),
            TaskSpec("end", "noop", depends_on=tuple(DependencySpec(f"t{n}") for n in range(count - 2))),
        ),
    )
    first = run_of(job_of(spec))
    launch_runs([first.pk])
    done = first.created_at
    TaskRun.objects.filter(run=first).update(state="succeeded", ended_at=done, planned_at=done)
    TaskRun.objects.filter(run=first, position__lte=failed, position__gt=0).update(state="failed")
    TaskRun.objects.filter(run=first, position=count - 1).update(state="upstream_failed")
    JobRun.objects.filter(pk=first.pk).update(state="failed", ended_at=done)
    broker.waiting.clear()
    second = again(first)

    began = time.process_time(), time.perf_counter()
    launch_runs([second.pk])
    cpu, took = time.process_time() - began[0], time.perf_counter() - began[1]

    assert TaskRun.objects.filter(run=second, state="ready").count() == failed
    assert TaskRun.objects.filter(run=second, carried_from__isnull=False).count() == count - 1 - failed
    print(f"{connection.vendor}: {failed} of {count} again: {took:.2f} s, {cpu:.2f} s of CPU here")
    # On a busy machine the clock tells of its neighbours.
    assert cpu < 3
    assert took < 15
