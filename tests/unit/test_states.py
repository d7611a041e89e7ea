"""Every pair of states: an arrow, or IllegalTransition."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
from django.utils import timezone

from orchestrator.errors import IllegalTransition
from orchestrator.ledger.transitions import move_run, move_tasks
from orchestrator.states import (
    ATTEMPT_ARROWS,
    ATTEMPT_FINAL,
    RUN_ARROWS,
    RUN_FINAL,
    TASK_ARROWS,
    TASK_FINAL,
    TASK_IDLE,
    TASK_OPEN,
    AttemptState,
    RunState,
    TaskState,
)

#: The arrows as the documents draw them, written down a second time on purpose.
TASKS = {
    "waiting": "ready succeeded failed timed_out cancelled skipped upstream_failed",
    "ready": "running retry_waiting succeeded timed_out cancelled skipped",
    "running": "ready retry_waiting deferred succeeded failed timed_out cancelled",
    "retry_waiting": "ready running succeeded timed_out cancelled skipped",
    "deferred": "ready running retry_waiting succeeded timed_out cancelled skipped",
}
RUNS = {"pending": "running cancelled", "running": "succeeded failed cancelled timed_out"}


@pytest.mark.parametrize(("old", "new"), list(product(TaskState, TaskState)))
def test_each_pair_of_task_states_is_an_arrow_or_none(old: TaskState, new: TaskState) -> None:
    assert (new in TASK_ARROWS[old]) is (new in TASKS.get(old, "").split())


@pytest.mark.parametrize(("old", "new"), list(product(RunState, RunState)))
def test_each_pair_of_run_states_is_an_arrow_or_none(old: RunState, new: RunState) -> None:
    assert (new in RUN_ARROWS[old]) is (new in RUNS.get(old, "").split())


@pytest.mark.parametrize(("old", "new"), list(product(AttemptState, AttemptState)))
def test_an_attempt_goes_from_running_to_its_outcome_and_nowhere_else(old: AttemptState, new: AttemptState) -> None:
    assert (new in ATTEMPT_ARROWS[old]) is (old == AttemptState.RUNNING and new != AttemptState.RUNNING)


@pytest.mark.parametrize(
    ("old", "new"), [pair for pair in product(TaskState, TaskState) if pair[1] not in TASKS.get(pair[0], "").split()]
)
def test_moving_a_task_run_without_an_arrow_is_illegal(old: TaskState, new: TaskState) -> None:
    row = SimpleNamespace(pk=1, run_id=1, state=old)

    with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
        move_tasks([row], new, now=timezone.now(), reason="", cause="test")


@pytest.mark.parametrize(
    ("old", "new"), [pair for pair in product(RunState, RunState) if pair[1] not in RUNS.get(pair[0], "").split()]
)
def test_moving_a_run_without_an_arrow_is_illegal(old: RunState, new: RunState) -> None:
    with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
        move_run(SimpleNamespace(pk=1, state=old), new, now=timezone.now())


def test_final_states_have_no_way_out_and_open_ones_have() -> None:
    assert all(not TASK_ARROWS[state] for state in TASK_FINAL)
    assert all(TASK_ARROWS[state] for state in TASK_OPEN)
    assert all(not RUN_ARROWS[state] for state in RUN_FINAL)
    assert all(not ATTEMPT_ARROWS[state] for state in ATTEMPT_FINAL)


def test_a_cancellation_may_end_whatever_does_not_run() -> None:
    assert all(TaskState.CANCELLED in TASK_ARROWS[state] for state in TASK_IDLE)
    assert TaskState.RUNNING not in TASK_IDLE
