"""What the planner may decide, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.states import TaskState


@dataclass(frozen=True, slots=True)
class StartTask:
    """The task's dependencies opened: it is ready."""

    position: int


@dataclass(frozen=True, slots=True)
class CloseTask:
    """The task will not run: skipped, upstream_failed, or failed by a condition that could not be evaluated."""

    position: int
    state: TaskState
    reason: str


Decision = StartTask | CloseTask
