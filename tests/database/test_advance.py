"""What follows final tasks: joins, conditions, forgiveness, and the end of the run."""

from __future__ import annotations

import pytest

from orchestrator.models import TaskRun, Transition
from orchestrator.services.attempts import AttemptEnd
from orchestrator.services.attempts import task_of as task_of_claim
from orchestrator.services.runs import advance_run
from tests.support.factories import moves_of, run_of, state_of, states_of, task_of
from tests.support.simulation import FAILURE, SUCCESS, TIMEOUT, Broker, Simulation, result_of, run_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


def finish(broker: Broker, **outcomes: AttemptEnd) -> None:
    """Run all that can run; tasks succeed unless an outcome is given by name."""
    Simulation(broker, lambda claimed: outcomes.get(task_of_claim(claimed).name, SUCCESS)).drain()


def test_a_run_of_all_shapes_succeeds(broker: Broker) -> None:
    run = run_of("start -> p*6 -> end -> last; start -> side -> x, y; x, y -> z")

    finish(broker)

    assert set(states_of(run).values()) == {"succeeded"}
    assert state_of(run) == "succeeded"


def test_a_wide_chord_is_expanded_by_slices_and_planned_once(broker: Broker) -> None:
    run = run_of("p*1203 -> end")

    finish(broker)

    assert state_of(run) == "succeeded"
    assert moves_of(run, "end") == ["waiting", "ready", "running", "succeeded"]


def test_a_failing_root_closes_everything_below_level_by_level(broker: Broker) -> None:
    run = run_of("root -> p*700 -> end -> last")

    finish(broker, root=FAILURE)

    states = states_of(run)
    assert states.pop("root") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    assert not TaskRun.objects.filter(run=run, planned_at=None).exists()
    assert state_of(run) == "failed"


def test_a_failure_branch_runs_and_forgives_nothing_by_itself(broker: Broker) -> None:
    run = run_of("load -[failed]-> alarm; load -> report")

    finish(broker, load=FAILURE)

    assert states_of(run) == {"load": "failed", "alarm": "succeeded", "report": "upstream_failed"}
    assert state_of(run) == "failed"


def test_a_success_skips_the_failure_branch(broker: Broker) -> None:
    run = run_of("load -[failed]-> alarm -> page")

    finish(broker)

    assert states_of(run) == {"load": "succeeded", "alarm": "skipped", "page": "skipped"}
    assert state_of(run) == "succeeded"


def test_a_recovery_that_succeeds_forgives(broker: Broker) -> None:
    run = run_of("load -[failed recovers]-> fallback")

    finish(broker, load=FAILURE)

    assert state_of(run) == "succeeded"


def test_a_recovery_that_fails_forgives_nothing(broker: Broker) -> None:
    run = run_of("load -[failed recovers]-> fallback")

    finish(broker, load=TIMEOUT, fallback=FAILURE)

    run.refresh_from_db()
    assert (run.state, run.reason) == ("failed", "load timed_out and 1 more")


def test_a_recovery_whose_condition_is_false_forgives_nothing(broker: Broker) -> None:
    run = run_of("load -[failed recovers when: params == {}]-> a; load -[failed recovers when: params != {}]-> b")

    finish(broker, load=FAILURE)

    assert states_of(run) == {"load": "failed", "a": "succeeded", "b": "upstream_failed"}
    assert state_of(run) == "succeeded"

    other = run_of("load -[failed recovers when: params != {}]-> b; other -> b; b: join=any")
    finish(broker, load=FAILURE)
    assert states_of(other)["b"] == "succeeded"
    assert state_of(other) == "failed", "b ran for another reason"


def test_an_allowed_failure_does_not_fail_the_run(broker: Broker) -> None:
    run = run_of("load -[done]-> tidy; load: allow_failure")

    finish(broker, load=FAILURE)

    assert states_of(run) == {"load": "failed", "tidy": "succeeded"}
    assert state_of(run) == "succeeded"


def test_upstream_failed_decides_nothing_by_itself(broker: Broker) -> None:
    run = run_of("load -> report; load: allow_failure")

    finish(broker, load=FAILURE)

    assert states_of(run)["report"] == "upstream_failed"
    assert state_of(run) == "succeeded"


def test_an_any_join_starts_with_the_first_and_later_upstreams_change_nothing(broker: Broker) -> None:
    run = run_of("a, b -> end; end: join=any")
    run_task(run, "a")
    assert states_of(run)["end"] == "ready"

    run_task(run, "end")
    assert state_of(run) == "running", "b has not ended"
    run_task(run, "b", FAILURE)

    assert moves_of(run, "end") == ["waiting", "ready", "running", "succeeded"]
    assert state_of(run) == "failed"


def test_a_condition_reads_the_result_of_its_upstream(broker: Broker) -> None:
    run = run_of("count -[when: results.count.n > 5]-> many; count -[when: results.count.n <= 5]-> few")

    finish(broker, count=result_of({"n": 9}))

    assert states_of(run) == {"count": "succeeded", "many": "succeeded", "few": "skipped"}
    assert state_of(run) == "succeeded"


def test_a_condition_that_cannot_be_evaluated_fails_the_task_and_the_run(broker: Broker) -> None:
    run = run_of("count -[when: results.count.n > 5]-> load -> last")

    finish(broker)

    assert states_of(run) == {"count": "succeeded", "load": "failed", "last": "upstream_failed"}
    assert "could not be evaluated" in task_of(run, "load").reason
    assert state_of(run) == "failed"


def test_advancing_twice_changes_nothing(broker: Broker) -> None:
    run = run_of("p*4 -> end")
    for number in range(1, 5):
        run_task(run, f"p_{number}")
    assert advance_run(run.pk) == 1
    before = (list(TaskRun.objects.values()), Transition.objects.count())

    assert advance_run(run.pk) == 0

    assert (list(TaskRun.objects.values()), Transition.objects.count()) == before


def test_a_chain_link_is_ready_before_its_message_exists_and_is_not_hinted_twice(broker: Broker) -> None:
    run = run_of("a -> b -> c")
    (first,) = broker.published
    simulation = Simulation(broker)

    simulation.deliver(broker.waiting.pop(0))

    assert states_of(run) == {"a": "succeeded", "b": "ready", "c": "waiting"}
    assert broker.published == [first], "Celery publishes the next link"
    assert task_of(run, "b").hint_published_at is not None


def test_the_rest_of_a_chain_that_failed_runs_through_without_effect(broker: Broker) -> None:
    run = run_of("a -> b -> c")

    finish(broker, a=FAILURE)

    assert broker.waiting == []
    assert states_of(run) == {"a": "failed", "b": "upstream_failed", "c": "upstream_failed"}
    assert TaskRun.objects.filter(run=run, attempt_count__gt=0).count() == 1
