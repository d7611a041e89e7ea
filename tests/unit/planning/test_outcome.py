from __future__ import annotations

import pytest

from orchestrator.planning.outcome import FailedTask, RunOutcome, outcome_of
from orchestrator.states import RunState, TaskState

SUCCEEDED = RunOutcome(RunState.SUCCEEDED)


def failed(name: str = "load", *recoveries: TaskState, allow: bool = False) -> FailedTask:
    return FailedTask(name, TaskState.FAILED, allow, recoveries)


def test_a_run_without_failures_succeeds() -> None:
    assert outcome_of([]) == SUCCEEDED


def test_a_failed_task_fails_the_run_and_is_named() -> None:
    assert outcome_of([failed("load")]) == RunOutcome(RunState.FAILED, "load failed")


def test_a_timed_out_task_fails_the_run() -> None:
    assert outcome_of([FailedTask("load", TaskState.TIMED_OUT, False)]) == RunOutcome(RunState.FAILED, "load timed_out")


def test_the_reason_names_the_first_failure_and_counts_the_others() -> None:
    assert outcome_of([failed("a"), failed("b"), failed("c")]).reason == "a failed and 2 more"


def test_a_failure_that_the_task_allows_is_forgiven() -> None:
    assert outcome_of([failed("load", allow=True)]) == SUCCEEDED


def test_a_recovery_that_succeeded_forgives() -> None:
    assert outcome_of([failed("load", TaskState.FAILED, TaskState.SUCCEEDED)]) == SUCCEEDED


@pytest.mark.parametrize("state", [state for state in TaskState if state != TaskState.SUCCEEDED])
def test_a_recovery_that_did_not_succeed_forgives_nothing(state: TaskState) -> None:
    assert outcome_of([failed("load", state)]).state == RunState.FAILED


def test_one_forgiven_failure_does_not_forgive_another() -> None:
    assert outcome_of([failed("a", allow=True), failed("b")]) == RunOutcome(RunState.FAILED, "b failed")
