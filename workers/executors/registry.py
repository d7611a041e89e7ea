"""Which executor runs which task type. Importing this needs neither Django nor Celery nor any client library."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import registry
from orchestrator.errors import UpbeatError
from orchestrator.registry import TaskType
from workers.executors import http, noop, python, script, shell, sql, wait
from workers.executors.base import Executor


@dataclass(frozen=True, slots=True)
class Adapter:
    """A task type, what definitions may say of it, and what runs it."""

    type: TaskType
    executor: Executor
    #: Its attempts get a directory of their own; one that works elsewhere is spared the making of it.
    needs_workdir: bool = True
    #: It connects to addresses that a definition names, and is told which private networks the tenant may reach.
    uses_network: bool = False


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(http.TYPE, http.HttpExecutor(), needs_workdir=False, uses_network=True),
    Adapter(noop.TYPE, noop.NoopExecutor(), needs_workdir=False),
    Adapter(shell.TYPE, shell.ShellExecutor()),
    Adapter(sql.TYPE, sql.SqlExecutor(), needs_workdir=False),
    Adapter(script.TYPE, script.ScriptExecutor()),
    Adapter(python.TYPE, python.PythonExecutor()),
    Adapter(wait.TYPE, wait.WaitExecutor(), needs_workdir=False),
)

_by_name = {adapter.type.name: adapter for adapter in ADAPTERS}


class UnknownTaskType(UpbeatError):
    """No executor runs this task type."""

    code = "unknown_task_type"


def register_task_types() -> None:
    """Tell the orchestrator which task types a definition may name; safe to call twice."""
    for adapter in ADAPTERS:
        registry.task_types.register(adapter.type.name, adapter.type)


def adapter_for(name: str) -> Adapter:
    """Return what runs a task type. Raises UnknownTaskType."""
    try:
        return _by_name[name]
    except KeyError:
        raise UnknownTaskType(
            f"no executor runs the task type {name!r}; known: {', '.join(sorted(_by_name))}"
        ) from None


def uses_network(name: str) -> bool:
    """Say whether a task type connects to addresses that a definition names; an unknown one does not."""
    adapter = _by_name.get(name)
    return adapter is not None and adapter.uses_network


def executor_for(name: str) -> Executor:
    """Return the executor of a task type. Raises UnknownTaskType."""
    return adapter_for(name).executor
