"""`python`: one call of a function, in a process of its own and in the Python that the task names.

Arguments go by a file that only this user can read, never by an argument list; the value that is returned is the
result. The side that makes the call is `runtime/python_call.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from orchestrator.registry import TaskType
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.fields import CWD, ENV, BadField, absolute_path, env, refuse_unknown, sequence, text
from workers.executors.process import (
    LocalProcess,
    ProcessFields,
    Program,
    environment_of,
    exit_code_of,
    find_program,
    forced_end,
)
from workers.executors.results import bytes_of_file
from workers.runtime import python_call
from workers.runtime.subprocesses import Ending

DOTTED = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"

TYPE = TaskType(
    name="python",
    label="Python function",
    schema={
        "type": "object",
        "required": ["call"],
        "additionalProperties": False,
        "properties": {
            "call": {"type": "string", "pattern": f"^{DOTTED}:{DOTTED}$", "description": "module:function."},
            "python": {
                "type": "string",
                "pattern": "^(/.|[^/]+$)",
                "description": "Interpreter, by path or looked up in PATH; default: the worker's.",
            },
            "args": {"type": "array", "description": "Positional arguments; any JSON."},
            "kwargs": {"type": "object", "description": "Arguments by name; any JSON."},
            "env": ENV,
            "cwd": CWD,
        },
    },
    fixed_text=("call", "python", "cwd"),
    values_in=("args", "kwargs", "env"),
)

BOOTSTRAP = os.path.abspath(python_call.__file__)
#: What stands around a value in the ending.
ENVELOPE_BYTES = 4096


class PythonExecutor:
    """Runs Python functions."""

    def __init__(self, process: LocalProcess | None = None) -> None:
        self._process = process or LocalProcess()

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        config = context.config
        folder = context.workdir / "call"
        try:
            refuse_unknown(config, TYPE.schema, "python")
            fields = ProcessFields(
                env=env(config.get("env") or {}),
                cwd=absolute_path(config["cwd"], "cwd") if config.get("cwd") is not None else None,
            )
            environment = environment_of(context, fields)
            python = find_program(_interpreter(config.get("python")), "python", environment)
            _write_request(config, folder, self._process.result_bytes)
            program = Program("python", [python, BOOTSTRAP, str(folder)])
            ending = self._process.run(context, fields, program, environment)
            return forced_end(context, fields, program, ending) or self._outcome(folder, ending)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))

    def _outcome(self, folder: Path, ending: Ending) -> ExecutionResult:
        code = exit_code_of(ending)
        try:
            words = bytes_of_file(folder / "ending.json", self._process.result_bytes + ENVELOPE_BYTES, "the result")
            outcome = json.loads(words)
        except (BadField, ValueError, RecursionError):
            reason = f"exit code {code} before the call returned"
            return ExecutionResult.failed(FailureKind.RETRYABLE, reason, exit_code=code)
        if "failed" in outcome:
            return ExecutionResult.failed(FailureKind(outcome["failed"]), outcome["reason"], exit_code=code)
        if code != 0:
            reason = f"exit code {code} after the call returned"
            return ExecutionResult.failed(FailureKind.RETRYABLE, reason, exit_code=code)
        return ExecutionResult.succeeded(outcome["returned"], exit_code=code)


def _interpreter(value: Any) -> str:
    if value is None:
        return sys.executable
    path = text(value, "python")
    if "/" in path and not path.startswith("/"):
        raise BadField("python", path, "an absolute path or a program in PATH")
    return path


def _write_request(config: Mapping[str, Any], folder: Path, limit: int) -> None:
    kwargs = config.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise BadField("kwargs", kwargs, "a mapping of names to values")
    call = text(config.get("call"), "call")
    module, _, function = call.partition(":")
    if not module or not function:
        raise BadField("call", call, "module:function")
    request = {"call": call, "args": sequence(config.get("args") or (), "args"), "kwargs": kwargs, "limit": limit}
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / "request.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        json.dump(cast(Any, request), file)
