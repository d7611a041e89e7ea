"""Which executor runs which task type. Importing this needs neither Django nor Celery nor any client library."""

from __future__ import annotations

from orchestrator import registry
from orchestrator.errors import UpbeatError
from orchestrator.registry import TaskType
from workers.executors import noop, shell
from workers.executors.base import Executor

#: One line per task type: what definitions may say, and what runs it.
EXECUTORS: tuple[tuple[TaskType, Executor], ...] = (
    (noop.TYPE, noop.NoopExecutor()),
    (shell.TYPE, shell.ShellExecutor()),
)

_by_name: dict[str, Executor] = {task_type.name: executor for task_type, executor in EXECUTORS}


class UnknownTaskType(UpbeatError):
    """No executor runs this task type."""

    code = "unknown_task_type"


def register_task_types() -> None:
    """Tell the orchestrator which task types a definition may name; safe to call twice."""
    for task_type, _ in EXECUTORS:
        registry.task_types.register(task_type.name, task_type)


def executor_for(name: str) -> Executor:
    """Return the executor of a task type. Raises UnknownTaskType."""
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownTaskType(
            f"no executor runs the task type {name!r}; known: {', '.join(sorted(_by_name))}"
        ) from None
