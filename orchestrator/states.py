"""The states of runs, task runs and attempts, and the only arrows between them.

Final states have no way out: running something again makes a new run. Pause and stop are columns, not
states: a request is not a state until it has happened.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where one execution of a job version stands."""

    PENDING = "pending"  # recorded, waits for run admission
    RUNNING = "running"  # admitted; its task runs exist
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class TaskState(StrEnum):
    """Where one task of a run stands."""

    WAITING = "waiting"  # a dependency is not decided yet
    READY = "ready"  # may be claimed, once its locks are granted
    RUNNING = "running"  # one attempt holds its lease
    RETRY_WAITING = "retry_waiting"  # an attempt failed, the next one is due at `due_at`
    DEFERRED = "deferred"  # an attempt waits outside a worker until `due_at`
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"


class AttemptState(StrEnum):
    """One try by one worker under one lease: running from its claim until its outcome."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


RUN_FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})
TASK_FINAL = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.TIMED_OUT,
        TaskState.CANCELLED,
        TaskState.SKIPPED,
        TaskState.UPSTREAM_FAILED,
    }
)
ATTEMPT_FINAL = frozenset(set(AttemptState) - {AttemptState.RUNNING})

RUN_OPEN = frozenset(set(RunState) - RUN_FINAL)
TASK_OPEN = frozenset(set(TaskState) - TASK_FINAL)
#: Open, but no attempt runs: what a cancellation, a skip or a deadline ends at once.
TASK_IDLE = TASK_OPEN - {TaskState.RUNNING}

RUN_ARROWS: dict[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: RUN_FINAL,
    **{state: frozenset() for state in RunState if state in RUN_FINAL},
}

TASK_ARROWS: dict[TaskState, frozenset[TaskState]] = {
    # The planner's decisions, a person's skip or mark, and a cancelled or timed-out run.
    TaskState.WAITING: frozenset({TaskState.READY}) | TASK_FINAL,
    # A claim; a person; a cancelled run; a queue-wait deadline. To a retry: a deferred attempt that had to ask for its
    # locks again, and whose own deadline passed before it got them.
    TaskState.READY: frozenset({TaskState.RUNNING, TaskState.RETRY_WAITING})
    | TASK_FINAL - {TaskState.UPSTREAM_FAILED, TaskState.FAILED},
    # Settle under the token; `ready` by lease expiry alone, which only the reconciler does.
    TaskState.RUNNING: frozenset(
        {
            TaskState.READY,
            TaskState.RETRY_WAITING,
            TaskState.DEFERRED,
            TaskState.SUCCEEDED,
            TaskState.FAILED,
            TaskState.TIMED_OUT,
            TaskState.CANCELLED,
        }
    ),
    # Due: claimed, or `ready` when its locks must be granted again first.
    TaskState.RETRY_WAITING: frozenset({TaskState.READY, TaskState.RUNNING})
    | TASK_FINAL - {TaskState.UPSTREAM_FAILED, TaskState.FAILED},
    # The same, and the deadline of the attempt, which runs on.
    TaskState.DEFERRED: frozenset({TaskState.READY, TaskState.RUNNING, TaskState.RETRY_WAITING})
    | TASK_FINAL - {TaskState.UPSTREAM_FAILED, TaskState.FAILED},
    **{state: frozenset() for state in TaskState if state in TASK_FINAL},
}

ATTEMPT_ARROWS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.RUNNING: ATTEMPT_FINAL,
    **{state: frozenset() for state in AttemptState if state in ATTEMPT_FINAL},
}
