"""`script`: an inline text, run by an interpreter in a process tree of its own.

The text is fixed; parameters reach it as environment variables and arguments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.registry import TaskType
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.fields import COMMAND_FIELDS, BadField, argument, read_fields, refuse_unknown, sequence, text
from workers.executors.process import LocalProcess, Program, environment_of, find_program

SHELL = ("/bin/sh",)

TYPE = TaskType(
    name="script",
    label="Script",
    schema={
        "type": "object",
        "required": ["script"],
        "additionalProperties": False,
        "properties": {
            "script": {"type": "string", "minLength": 1, "description": "The whole text; fixed, never a template."},
            "interpreter": {
                "type": "array",
                "minItems": 1,
                "prefixItems": [{"type": "string", "pattern": "^(/.|[^/]+$)"}],
                "items": {"type": "string"},
                "description": "Program, by path or looked up in PATH, and its options; default: what the text's `#!`"
                " line names, else /bin/sh.",
            },
            **COMMAND_FIELDS,
        },
    },
    fixed_text=("script", "interpreter", "cwd"),
)


class ScriptExecutor:
    """Runs scripts."""

    def __init__(self, process: LocalProcess | None = None) -> None:
        self._process = process or LocalProcess()

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        config = context.config
        try:
            refuse_unknown(config, TYPE.schema, "script")
            fields = read_fields(config)
            script = text(config.get("script"), "script")
            given = config.get("interpreter")
            program, *options = _named_in(script) if given is None else _interpreter(given)
            path = find_program(program, "interpreter", environment_of(context, fields))
            file = _write(script, context.workdir)
            return self._process.execute(
                context, fields, Program("interpreter", [path, *options, str(file), *fields.args])
            )
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))


def _interpreter(value: Any) -> list[str]:
    parts = [argument(part, f"interpreter[{n}]") for n, part in enumerate(sequence(value, "interpreter"))]
    if not parts or ("/" in parts[0] and not parts[0].startswith("/")) or not parts[0]:
        raise BadField("interpreter", value, "a program, by path or by name, and its options")
    return parts


def _named_in(script: str) -> list[str]:
    """Read the first line as the kernel does: a path, and all that follows it as one argument."""
    first = script.partition("\n")[0].rstrip()
    if not first.startswith("#!"):
        return list(SHELL)
    return _interpreter(first[2:].strip().split(None, 1))


def _write(script: str, workdir: Path) -> Path:
    path = workdir / "script"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(os.fsencode(script))
    return path
