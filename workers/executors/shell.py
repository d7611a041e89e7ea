"""`shell`: one command line, run by a shell in a process tree of its own.

The command's text is fixed; parameters reach it as environment variables and as `"$@"`, so no value is ever
parsed as shell.
"""

from __future__ import annotations

from orchestrator.registry import TaskType
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.fields import COMMAND_FIELDS, BadField, absolute_path, read_fields, refuse_unknown, text
from workers.executors.process import LocalProcess, Program

TYPE = TaskType(
    name="shell",
    label="Shell command",
    schema={
        "type": "object",
        "required": ["command"],
        "additionalProperties": False,
        "properties": {
            "command": {"type": "string", "minLength": 1, "description": "One command line; a fixed text."},
            "shell": {"type": "string", "pattern": "^/", "default": "/bin/sh", "description": "Path of the shell."},
            **COMMAND_FIELDS,
        },
    },
    fixed_text=("command", "shell", "cwd"),
)


class ShellExecutor:
    """Runs shell commands."""

    def __init__(self, process: LocalProcess | None = None) -> None:
        self._process = process or LocalProcess()

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        config = context.config
        try:
            refuse_unknown(config, TYPE.schema, "shell")
            fields = read_fields(config)
            shell = absolute_path(config.get("shell") or "/bin/sh", "shell")
            command = text(config.get("command"), "command")
            program = Program("shell", [shell, "-c", command, shell, *fields.args])
            return self._process.execute(context, fields, program)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))
