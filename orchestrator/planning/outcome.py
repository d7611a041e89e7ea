"""How a run ends, from the tasks that ended badly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.states import RunState, TaskState

FAILURES = frozenset({TaskState.FAILED, TaskState.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that ended failed or timed_out, with what could forgive it."""

    name: str
    state: TaskState
    allow_failure: bool
    #: The states of the tasks behind its dependencies with `recovers: true` that opened.
    recoveries: tuple[TaskState, ...] = ()


@dataclass(frozen=True, slots=True)
class RunOutcome:
    state: RunState
    reason: str = ""


def outcome_of(failed: Iterable[FailedTask]) -> RunOutcome:
    """Return the end of a run that was not stopped: failed if a failure is left that nothing forgives.

    `upstream_failed` decides nothing by itself; its cause does.
    """
    unforgiven = [task for task in failed if not task.allow_failure and TaskState.SUCCEEDED not in task.recoveries]
    if not unforgiven:
        return RunOutcome(RunState.SUCCEEDED)
    first = unforgiven[0]
    more = f" and {len(unforgiven) - 1} more" if len(unforgiven) > 1 else ""
    return RunOutcome(RunState.FAILED, f"{first.name} {first.state}{more}")
