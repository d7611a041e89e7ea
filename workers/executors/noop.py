"""`noop`: succeeds at once. For joins, for marking a place in a DAG, and for measuring the engine."""

from __future__ import annotations

from orchestrator.registry import TaskType
from workers.executors.base import ExecutionContext, ExecutionResult

TYPE = TaskType(
    name="noop",
    label="Nothing",
    schema={"type": "object", "properties": {}, "additionalProperties": False},
)


class NoopExecutor:
    """Does nothing, successfully."""

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        return ExecutionResult.succeeded()
