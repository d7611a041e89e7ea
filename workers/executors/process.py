"""Runs a local process for an attempt: its limits, its environment, and what its end means for another try."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from orchestrator.store import RESULT_BYTES
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.fields import BadField, ProcessFields, positive
from workers.executors.results import json_of_file, json_of_line
from workers.runtime.output import LastLine, Lines
from workers.runtime.subprocesses import GRACE, Cause, Ending, Limits, run_tree

#: What a process inherits of the worker's environment: nothing that could hold a secret.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A shell's own words for: found but not executable, not found.
NOT_EXECUTABLE, NOT_FOUND = 126, 127
SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Program:
    """What is executed, and the field of the task that names it."""

    field: str
    argv: Sequence[str]


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """How processes are run. `file_size` and `open_files` limit each process, `processes` the whole tree."""

    grace: float = GRACE
    file_size: int | None = 64 * 1024**3
    open_files: int = 4096
    processes: int | None = 2000
    result_bytes: int = RESULT_BYTES

    def execute(self, context: ExecutionContext, fields: ProcessFields, program: Program) -> ExecutionResult:
        """Run a program whose exit code says how it went. Raises BadField for limits that cannot be set."""
        result_path = context.workdir / "result.json"
        last_line = LastLine(self.result_bytes)
        environment = environment_of(context, fields)
        if fields.result == "file":
            environment = {"UPBEAT_RESULT": str(result_path), **environment}

        ending = self.run(
            context, fields, program, environment, on_stdout=last_line.feed if fields.result == "json" else None
        )

        failure = forced_end(context, fields, program, ending) or _exit(context, fields, exit_code_of(ending))
        if failure is not None:
            return failure
        try:
            result = self._result(fields, last_line, result_path)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem), exit_code=ending.exit_code)
        return ExecutionResult.succeeded(result, exit_code=ending.exit_code)

    def run(
        self,
        context: ExecutionContext,
        fields: ProcessFields,
        program: Program,
        environment: Mapping[str, str],
        *,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> Ending:
        """Run a program to its end, its output in the log. `on_stdout` sees standard output too, which is then in the
        log in whole lines beside those of standard error. Raises BadField for limits that cannot be set."""
        limits = self._limits(context)
        outputs = [Lines(context.log.write), Lines(context.log.write)]

        def both(chunk: bytes) -> None:
            if on_stdout is not None:
                on_stdout(chunk)
            outputs[0].feed(chunk)

        apart = on_stdout is not None
        ending = run_tree(
            program.argv,
            environment=environment,
            cwd=Path(fields.cwd) if fields.cwd else context.workdir,
            remove=context.workdir,
            limits=limits,
            timeout=context.timeout,
            stop=context.stop,
            grace=self.grace,
            # With one pipe for both, the log has the exact order in which lines were written.
            on_output=both if apart else context.log.write,
            on_stderr=outputs[1].feed if apart else None,
        )
        for output in outputs:
            output.close()
        _note(context, ending)
        return ending

    def _limits(self, context: ExecutionContext) -> Limits:
        memory = positive(context.resources, "memory", "resources.memory")
        cpu = positive(context.resources, "cpu", "resources.cpu")
        return Limits(
            memory=None if memory is None else int(memory),
            # `cpu` cores until the deadline: a process that spins longer uses more than it was given.
            cpu_seconds=None if cpu is None else max(1, ceil(context.timeout * cpu)),
            file_size=self.file_size,
            open_files=self.open_files,
            processes=self.processes,
        )

    def _result(self, fields: ProcessFields, last_line: LastLine, path: Path) -> Any:
        if fields.result == "none":
            return None
        if fields.result == "json":
            return json_of_line(last_line, self.result_bytes)
        return json_of_file(path, self.result_bytes)


def find_program(name: str, field: str, environment: Mapping[str, str]) -> str:
    """Return the path of a program that is named by its path, or looked up in the task's own PATH. Raises BadField."""
    if name.startswith("/"):
        return name
    found = shutil.which(name, path=environment["PATH"])
    if found is None:
        raise BadField(field, name, "a program in PATH")
    return found


def environment_of(context: ExecutionContext, fields: ProcessFields) -> dict[str, str]:
    """Return the whole environment of a process; what the task says wins."""
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    base.setdefault("PATH", DEFAULT_PATH)
    base.setdefault("HOME", "/")
    base.setdefault("LANG", "C.UTF-8")
    own = {
        # Into the directory that goes away with the attempt.
        "TMPDIR": str(context.workdir),
        # A Python child otherwise shows its first line when it ends.
        "PYTHONUNBUFFERED": "1",
    }
    return {**base, **own, **context.environment, **fields.env}


def exit_code_of(ending: Ending) -> int | None:
    """Return the exit code as a shell counts, 128 + n for signal n."""
    return SIGNALLED + ending.signal if ending.signal is not None else ending.exit_code


def forced_end(
    context: ExecutionContext, fields: ProcessFields, program: Program, ending: Ending
) -> ExecutionResult | None:
    """Translate an end that the process did not choose itself into a failure; None if it exited."""
    code = exit_code_of(ending)
    match ending.cause:
        case Cause.TIMEOUT:
            return ExecutionResult.failed(FailureKind.TIMEOUT, f"timed out after {context.timeout:g} s", exit_code=code)
        case Cause.STOPPED:
            return ExecutionResult.failed(FailureKind.STOPPED, context.stop.reason or "stopped", exit_code=code)
        case Cause.CROWDED:
            return ExecutionResult.failed(FailureKind.RETRYABLE, ending.problem, exit_code=code)
        case Cause.NOT_STARTED:
            reason = _not_started(context, fields, program, ending.problem)
            return ExecutionResult.failed(FailureKind.PERMANENT, reason)
        case Cause.REFUSED:
            return ExecutionResult.failed(FailureKind.RETRYABLE, ending.problem)
        case Cause.RUNNER_LOST:
            reason = "the process that watches the command was killed; how the command ended is not known"
            return ExecutionResult.failed(FailureKind.UNKNOWN, reason)
    if ending.signal is None:
        return None
    reason = f"killed by signal {ending.signal}{_limits_hint(context, ending.signal)}"
    return ExecutionResult.failed(FailureKind.RETRYABLE, reason, exit_code=code)


def _exit(context: ExecutionContext, fields: ProcessFields, code: int | None) -> ExecutionResult | None:
    """Translate an exit code into a failure; None is success."""
    if code in fields.success_codes:
        return None
    if code in (NOT_EXECUTABLE, NOT_FOUND):
        meaning = "not executable" if code == NOT_EXECUTABLE else "command not found"
        return ExecutionResult.failed(FailureKind.PERMANENT, f"exit code {code} ({meaning})", exit_code=code)
    hint = _limits_hint(context, code - SIGNALLED) if code is not None and code > SIGNALLED else ""
    return ExecutionResult.failed(FailureKind.RETRYABLE, f"exit code {code}{hint}", exit_code=code)


def _note(context: ExecutionContext, ending: Ending) -> None:
    if ending.leftovers:
        context.log.write(f"\n[upbeat] ended {ending.leftovers} processes that the command left running\n".encode())
    if ending.survivors:
        context.log.write(f"\n[upbeat] {ending.survivors} processes could not be ended\n".encode())


def _not_started(context: ExecutionContext, fields: ProcessFields, program: Program, problem: str) -> str:
    path = program.argv[0]
    step, _, words = problem.partition(": ")
    if step == "cwd":
        return f"cwd: {fields.cwd!r} cannot be entered: {words}"
    if words == os.strerror(errno.E2BIG):
        return f"args and env: together larger than a process may be given: {words}"
    if step == "limit" or words == os.strerror(errno.ENOMEM):
        return f"resources.memory: {context.resources.get('memory')} bytes do not even start {path}: {words}"
    return f"{program.field}: {path!r} cannot be run: {words}"


def _limits_hint(context: ExecutionContext, number: int) -> str:
    """Name the limit that such a signal may come from."""
    memory, cpu = context.resources.get("memory"), context.resources.get("cpu")
    if number == 24 and cpu is not None:  # SIGXCPU
        return f" (CPU time limit {context.timeout * cpu:g} s)"
    if number == 25:  # SIGXFSZ
        return " (file size limit)"
    if number in (6, 7, 9, 11) and memory is not None:  # SIGABRT, SIGBUS, SIGKILL, SIGSEGV
        return f" (memory limit {_size(int(memory))})"
    return ""


def _size(count: int) -> str:
    for unit in ("", "Ki", "Mi", "Gi"):
        if count < 1024 or count % 1024:
            return f"{count}{unit}"
        count //= 1024
    return f"{count}Ti"
