from __future__ import annotations

import pytest

from orchestrator.errors import StaleToken
from orchestrator.ledger import claims
from orchestrator.models import Attempt, JobRun, TaskRun, Transition
from orchestrator.services.attempts import AttemptEnd
from orchestrator.services.runs import cancel_run
from tests.support.factories import age, moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import (
    FAILURE,
    PERMANENT,
    SUCCESS,
    TIMEOUT,
    WORKER,
    Broker,
    claim,
    ending,
    heal,
    result_of,
    run_task,
    settle,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def test_an_outcome_ends_task_run_and_attempt_and_makes_what_follows_ready(broker: Broker) -> None:
    run = run_of("extract -> load")
    claimed = claim(run, "extract")
    broker.published.clear()

    assert settle(claimed, result_of({"rows": 3})) is True

    row = task_of(run, "extract")
    assert (row.state, row.result, row.lease_until) == ("succeeded", {"rows": 3}, None)
    assert row.ended_at is not None
    assert row.planned_at is not None
    assert Attempt.objects.get(pk=claimed.attempt_id).state == "succeeded"
    assert moves_of(run, "extract") == ["waiting", "ready", "running", "succeeded"]
    assert states_of(run) == {"extract": "succeeded", "load": "ready"}
    assert broker.hinted() == [task_of(run, "load").pk]


def test_the_last_leaf_finishes_the_run() -> None:
    run = run_of("a -> b")
    run_task(run, "a")
    assert state_of(run) == "running"

    run_task(run, "b")

    assert state_of(run) == "succeeded"
    assert JobRun.objects.get(pk=run.pk).ended_at is not None
    facts = Transition.objects.filter(subject="run", subject_id=run.pk).order_by("id")
    assert [fact.to_state for fact in facts] == ["pending", "running", "succeeded"]


@pytest.mark.parametrize("drawing", ["a", "a -> b", "a*5", "a; a: locks=warehouse"])
@pytest.mark.parametrize("end", [SUCCESS, FAILURE, TIMEOUT], ids=["succeeded", "failed", "timed_out"])
def test_settling_twice_changes_nothing(drawing: str, end: AttemptEnd) -> None:
    run = run_of(drawing)
    claimed = claim(run, next(iter(states_of(run))))
    settle(claimed, end)
    before = (list(TaskRun.objects.values()), list(Attempt.objects.values()), Transition.objects.count())

    settle(claimed, end)

    assert (list(TaskRun.objects.values()), list(Attempt.objects.values()), Transition.objects.count()) == before


def test_a_stale_worker_cannot_settle_an_attempt() -> None:
    run = run_of("load; load: idempotent")
    stale = claim(run, "load", worker="w1")
    age(run, seconds=60)
    heal()
    fresh = claim(run, "load", worker="w2")

    with pytest.raises(StaleToken):
        settle(stale, worker="w1")

    assert states_of(run) == {"load": "running"}
    assert settle(fresh, worker="w2") is True
    with pytest.raises(StaleToken):
        settle(stale, FAILURE, worker="w1")
    assert states_of(run) == {"load": "succeeded"}


def test_an_expired_lease_with_an_unchanged_token_may_still_settle() -> None:
    run = run_of("load")
    claimed = claim(run, "load")
    age(run, seconds=3600)

    assert settle(claimed) is True

    assert state_of(run) == "succeeded"


def test_another_outcome_under_the_same_token_is_fenced_off() -> None:
    run = run_of("load")
    claimed = claim(run, "load")
    settle(claimed, SUCCESS)

    with pytest.raises(StaleToken):
        settle(claimed, FAILURE)


def test_a_failure_without_retry_fails_the_task_and_the_run_with_its_reason() -> None:
    run = run_of("extract -> load")

    run_task(run, "extract", FAILURE)

    assert states_of(run) == {"extract": "failed", "load": "upstream_failed"}
    run.refresh_from_db()
    assert (run.state, run.reason) == ("failed", "extract failed")
    attempt = Attempt.objects.get(task_run=task_of(run, "extract"))
    assert (attempt.state, attempt.failure_kind, attempt.exit_code) == ("failed", "retryable", 1)


def test_a_timeout_ends_timed_out() -> None:
    run = run_of("load")

    run_task(run, "load", TIMEOUT)

    assert states_of(run) == {"load": "timed_out"}
    assert state_of(run) == "failed"


def test_the_header_of_a_chord_leaves_planning_to_advance(broker: Broker) -> None:
    run = run_of("p*4 -> end")

    for number in range(1, 5):
        run_task(run, f"p_{number}")

    assert states_of(run)["end"] == "waiting"
    assert all(task_of(run, f"p_{n}").planned_at is None for n in range(1, 5))


class TestStop:
    """An outcome that beats the stop stands; a retry becomes what the stop asked for."""

    def test_a_success_after_the_request_stands_and_the_run_still_ends_cancelled(self) -> None:
        run = run_of("a -> b")
        claimed = claim(run, "a")
        cancel_run(run.pk, by="ada", reason="wrong day")

        settle(claimed, SUCCESS)

        assert states_of(run) == {"a": "succeeded", "b": "cancelled"}
        run.refresh_from_db()
        assert (run.state, run.reason) == ("cancelled", "wrong day")

    def test_a_retry_after_the_request_becomes_cancelled(self) -> None:
        run = run_of("a -> b; a: attempts=5")
        claimed = claim(run, "a")
        cancel_run(run.pk, by="ada")

        assert settle(claimed, FAILURE) is True

        assert states_of(run) == {"a": "cancelled", "b": "cancelled"}
        assert state_of(run) == "cancelled"
        assert Attempt.objects.get().state == "failed"

    def test_a_stopped_attempt_is_cancelled(self) -> None:
        run = run_of("a")
        claimed = claim(run, "a")
        cancel_run(run.pk, by="ada")

        settle(claimed, AttemptEnd("stopped", "stopped: wrong day"))

        assert states_of(run) == {"a": "cancelled"}
        assert state_of(run) == "cancelled"
        assert Attempt.objects.get().state == "cancelled"

    @pytest.mark.parametrize("end", [SUCCESS, AttemptEnd("stopped", "stopped")], ids=["success", "stopped"])
    def test_a_stopped_chord_ends_the_run_with_its_last_header(self, end: AttemptEnd) -> None:
        run = run_of("p*4 -> end")
        claimed = claim(run, "p_2")
        cancel_run(run.pk, by="ada")

        settle(claimed, end)
        age(run, seconds=6)
        heal()

        assert state_of(run) == "cancelled"


def test_a_settle_whose_commit_was_in_doubt_is_confirmed_and_not_written_again() -> None:
    run = run_of("a -> b")
    claimed = claim(run, "a")
    claims.settle(claimed, ending(claimed), worker=WORKER)

    again = claims.settle(claimed, ending(claimed), worker=WORKER)

    assert again.final
    assert moves_of(run, "b") == ["waiting", "ready"]


def test_a_very_long_reason_is_cut_and_not_refused() -> None:
    run = run_of("a -> b")

    run_task(run, "a", AttemptEnd("permanent", "x" * 5000))

    assert len(task_of(run, "a").reason) == 500


def test_a_permanent_failure_is_not_repeated() -> None:
    run = run_of("a; a: attempts=5")

    assert run_task(run, "a", PERMANENT) is True

    assert states_of(run) == {"a": "failed"}


class TestOneOfMany:
    """The success of one of many upstreams of a plain join is written without a plan, unless it is the last."""

    def test_it_counts_once_and_the_last_one_starts_the_join(self, broker: Broker) -> None:
        run = run_of("a*4 -> b*2; x -> b_1, b_2")
        for number in range(1, 5):
            claimed = claim(run, f"a_{number}")
            settle(claimed, result_of({"n": number}))
            settle(claimed, result_of({"n": number}))
            row = task_of(run, f"a_{number}")
            assert (row.state, row.result, row.lease_until, row.deadline_at) == ("succeeded", {"n": number}, None, None)
            assert row.planned_at is not None
            assert Attempt.objects.get(task_run=row).state == "succeeded"
            assert moves_of(run, f"a_{number}") == ["waiting", "ready", "running", "succeeded"]
        assert task_of(run, "b_1").open_upstreams == 1
        broker.published.clear()

        run_task(run, "x")

        assert states_of(run)["b_1"] == states_of(run)["b_2"] == "ready"
        assert sorted(broker.hinted()) == sorted([task_of(run, "b_1").pk, task_of(run, "b_2").pk])

    def test_a_stale_worker_writes_nothing(self) -> None:
        run = run_of("a*4 -> b*2; x -> b_1, b_2; a_1: idempotent")
        stale = claim(run, "a_1")
        age(run, seconds=60)
        heal()

        with pytest.raises(StaleToken):
            settle(stale)

        assert task_of(run, "b_1").open_upstreams == 5

    def test_the_run_ends_with_it_when_all_that_follows_is_over(self) -> None:
        run = run_of("a*4 -> b*2; x -> b_1, b_2")
        last = claim(run, "a_4")
        for name in ("a_1", "a_2", "a_3"):
            run_task(run, name)
        run_task(run, "x", FAILURE)
        assert states_of(run)["b_1"] == "upstream_failed"
        assert state_of(run) == "running"

        settle(last)

        assert state_of(run) == "failed"

    def test_an_outcome_after_a_requested_stop_stands_and_ends_the_run(self) -> None:
        run = run_of("a*4 -> b*2; x -> b_1, b_2")
        claimed = claim(run, "a_1")
        cancel_run(run.pk, by="ada")

        settle(claimed)

        assert states_of(run)["a_1"] == "succeeded"
        assert state_of(run) == "cancelled"
