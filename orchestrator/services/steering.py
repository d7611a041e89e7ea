"""What a person asks of a task or of a run that has ended: skip, mark as succeeded, run again."""

from __future__ import annotations

from orchestrator.canvas import binding
from orchestrator.errors import UnknownTaskRun
from orchestrator.ledger import steering
from orchestrator.models import TaskRun
from orchestrator.states import TaskState


def skip_task(task_run_id: int, *, by: str, reason: str = "") -> TaskRun:
    """End a task that has not started as skipped. Safe to call twice.

    What depends on its success is skipped too; it counts as no failure. Raises UnknownTaskRun, TaskIsRunning,
    TaskFinal, RunFinal, RunNotRunning.
    """
    binding.publish(
        steering.close_task(task_run_id, TaskState.SKIPPED, by=by, reason=_reason("skipped", by=by, reason=reason))
    )
    return _task_run(task_run_id)


def mark_task(task_run_id: int, *, by: str, reason: str = "") -> TaskRun:
    """End a task that has not started as succeeded, without a result. Safe to call twice.

    What depends on it goes on. Raises UnknownTaskRun, TaskIsRunning, TaskFinal, RunFinal, RunNotRunning.
    """
    said = _reason("marked as succeeded", by=by, reason=reason)
    binding.publish(steering.close_task(task_run_id, TaskState.SUCCEEDED, by=by, reason=said))
    return _task_run(task_run_id)


def _reason(done: str, *, by: str, reason: str) -> str:
    """The row says who and why: whoever reads it later does not look for its transition first."""
    return f"{done} by {by}" + (f": {reason}" if reason else "")


def _task_run(task_run_id: int) -> TaskRun:
    row = TaskRun.objects.select_related("task", "run__job").filter(pk=task_run_id).first()
    if row is None:
        raise UnknownTaskRun(f"There is no task run {task_run_id}.")
    return row
