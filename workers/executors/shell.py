"""`shell`: one command line, run by a shell in a process tree of its own.

The command's text is fixed; parameters reach it as environment variables and as `"$@"`, so no value is ever
parsed as shell. What the exit code means for another try is decided here, whether there is one is not.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal, cast

from orchestrator.registry import TaskType
from orchestrator.store import RESULT_BYTES
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.runtime.output import LastLine, Lines
from workers.runtime.subprocesses import GRACE, Cause, Ending, Limits, run_tree

ResultFrom = Literal["none", "json", "file"]

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
SCALAR = {"type": ["string", "number", "boolean"]}

TYPE = TaskType(
    name="shell",
    label="Shell command",
    schema={
        "type": "object",
        "required": ["command"],
        "additionalProperties": False,
        "properties": {
            "command": {"type": "string", "minLength": 1, "description": "One command line; a fixed text."},
            "args": {"type": "array", "items": SCALAR, "description": 'Reach the command as "$@".'},
            "env": {
                "type": "object",
                "propertyNames": {"pattern": NAME},
                "additionalProperties": SCALAR,
                "description": "Environment variables of the command.",
            },
            "shell": {"type": "string", "pattern": "^/", "default": "/bin/sh", "description": "Path of the shell."},
            "cwd": {
                "type": "string",
                "pattern": "^/",
                "description": "Where it runs; default: a fresh directory of the attempt.",
            },
            "result": {
                "enum": ["none", "json", "file"],
                "default": "none",
                "description": "json: the last line of standard output; file: the path in $UPBEAT_RESULT.",
            },
            "success_codes": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"type": "integer", "minimum": 0, "maximum": 255},
                "default": [0],
                "description": "Exit codes that mean success.",
            },
        },
    },
    fixed_text=("command", "shell", "cwd"),
)

#: What a command inherits of the worker's environment: nothing that could hold a secret.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A shell's own words for: found but not executable, not found.
NOT_EXECUTABLE, NOT_FOUND = 126, 127
SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class ShellConfig:
    """The fields of a shell task, rendered."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    shell: str = "/bin/sh"
    cwd: str | None = None
    result: ResultFrom = "none"
    success_codes: tuple[int, ...] = (0,)


class BadField(Exception):
    """A rendered field is not what the executor can use."""

    def __init__(self, field: str, value: Any, expected: str) -> None:
        super().__init__(f"{field}: {_shown(value)} is not {expected}")


class ShellExecutor:
    """Runs shell commands. `file_size` and `open_files` limit each process of every command."""

    def __init__(
        self,
        *,
        grace: float = GRACE,
        file_size: int | None = 64 * 1024**3,
        open_files: int = 4096,
        result_bytes: int = RESULT_BYTES,
    ) -> None:
        self._grace = grace
        self._file_size = file_size
        self._open_files = open_files
        self._result_bytes = result_bytes

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        try:
            config = read_config(context.config)
            limits = self._limits(context)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem))

        result_path = context.workdir / "result.json"
        environment = _environment(context, config, result_path)
        last_line = LastLine(self._result_bytes)
        outputs = [Lines(context.log.write), Lines(context.log.write)]

        def on_stdout(chunk: bytes) -> None:
            last_line.feed(chunk)
            outputs[0].feed(chunk)

        apart = config.result == "json"
        ending = run_tree(
            [config.shell, "-c", config.command, config.shell, *config.args],
            environment=environment,
            cwd=Path(config.cwd) if config.cwd else context.workdir,
            remove=context.workdir,
            limits=limits,
            timeout=context.timeout,
            stop=context.stop,
            grace=self._grace,
            # With one pipe for both, the log has the exact order in which lines were written.
            on_output=on_stdout if apart else context.log.write,
            on_stderr=outputs[1].feed if apart else None,
        )
        for output in outputs:
            output.close()
        _note(context, ending)
        failure = _failure(context, config, ending)
        if failure is not None:
            return failure
        try:
            result = self._result(config, last_line, result_path)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, str(problem), exit_code=ending.exit_code)
        return ExecutionResult.succeeded(result, exit_code=ending.exit_code)

    def _limits(self, context: ExecutionContext) -> Limits:
        memory = _positive(context.resources, "memory")
        cpu = _positive(context.resources, "cpu")
        return Limits(
            memory=None if memory is None else int(memory),
            # `cpu` cores until the deadline: a process that spins longer uses more than it was given.
            cpu_seconds=None if cpu is None else max(1, ceil(context.timeout * cpu)),
            file_size=self._file_size,
            open_files=self._open_files,
        )

    def _result(self, config: ShellConfig, last_line: LastLine, path: Path) -> Any:
        if config.result == "none":
            return None
        if config.result == "json":
            text = last_line.line()
            if last_line.too_long:
                raise BadField("result", "the last line of standard output", f"at most {self._result_bytes} bytes long")
            return _parsed(text, "the last line of standard output")
        return _parsed(_file_text(path, self._result_bytes), "the file in $UPBEAT_RESULT")


def read_config(config: Mapping[str, Any]) -> ShellConfig:
    """Check the rendered fields. A placeholder may have put any type where its schema had a text; raises BadField."""
    unknown = set(config) - set(ShellConfig.__slots__)
    if unknown:
        raise BadField(
            min(unknown), config[min(unknown)], f"a field of a shell task ({', '.join(ShellConfig.__slots__)})"
        )
    return ShellConfig(
        command=_text(config.get("command"), "command"),
        args=tuple(_argument(value, f"args[{n}]") for n, value in enumerate(_list(config.get("args") or (), "args"))),
        env=_env(config.get("env") or {}),
        shell=_path(config.get("shell") or "/bin/sh", "shell"),
        cwd=_path(config["cwd"], "cwd") if config.get("cwd") is not None else None,
        result=_choice(config.get("result") or "none"),
        success_codes=_codes(config.get("success_codes", (0,))),
    )


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadField(field, value, "a text")
    return _encodable(value, field)


def _encodable(text: str, field: str) -> str:
    if "\0" in text:
        raise BadField(field, text, "free of NUL characters, which no process can be given")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise BadField(field, text, "text that can be encoded as UTF-8") from None
    return text


def _argument(value: Any, field: str) -> str:
    """Turn a rendered value into the text that a process sees."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _encodable(text, field)


def _list(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise BadField(field, value, "a list")
    return value


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise BadField("env", value, "a mapping of names to values")
    for name in value:
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise BadField("env", name, "a name of letters, digits and underscores")
    return {name: _argument(item, f"env.{name}") for name, item in value.items()}


def _path(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise BadField(field, value, "an absolute path")
    return _encodable(value, field)


def _choice(value: Any) -> ResultFrom:
    if value not in ("none", "json", "file"):
        raise BadField("result", value, "none, json or file")
    return cast(ResultFrom, value)


def _codes(value: Any) -> tuple[int, ...]:
    codes = _list(value, "success_codes")
    for code in codes:
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 255:
            raise BadField("success_codes", code, "an exit code, 0 to 255")
    return tuple(codes)


def _positive(resources: Mapping[str, Any], name: str) -> float | None:
    value = resources.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise BadField(f"resources.{name}", value, "a positive number")
    return value


def _environment(context: ExecutionContext, config: ShellConfig, result_path: Path) -> dict[str, str]:
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
    if config.result == "file":
        own["UPBEAT_RESULT"] = str(result_path)
    return {**base, **own, **context.environment, **(config.env or {})}


def _note(context: ExecutionContext, ending: Ending) -> None:
    if ending.leftovers:
        context.log.write(f"\n[upbeat] ended {ending.leftovers} processes that the command left running\n".encode())
    if ending.survivors:
        context.log.write(f"\n[upbeat] {ending.survivors} processes could not be ended\n".encode())


def _failure(context: ExecutionContext, config: ShellConfig, ending: Ending) -> ExecutionResult | None:
    """Translate how the command ended into a failure; None is success."""
    code = SIGNALLED + ending.signal if ending.signal is not None else ending.exit_code
    match ending.cause:
        case Cause.TIMEOUT:
            return ExecutionResult.failed(FailureKind.TIMEOUT, f"timed out after {context.timeout:g} s", exit_code=code)
        case Cause.STOPPED:
            return ExecutionResult.failed(FailureKind.STOPPED, context.stop.reason or "stopped", exit_code=code)
        case Cause.NOT_STARTED:
            return ExecutionResult.failed(FailureKind.PERMANENT, _not_started(context, config, ending.problem))
        case Cause.REFUSED:
            return ExecutionResult.failed(FailureKind.RETRYABLE, ending.problem)
        case Cause.RUNNER_LOST:
            reason = "the process that watches the command was killed; how the command ended is not known"
            return ExecutionResult.failed(FailureKind.UNKNOWN, reason)
    if ending.signal is not None:
        reason = f"killed by signal {ending.signal}{_limits_hint(context, ending.signal)}"
        return ExecutionResult.failed(FailureKind.RETRYABLE, reason, exit_code=code)
    if code in config.success_codes:
        return None
    if code in (NOT_EXECUTABLE, NOT_FOUND):
        meaning = "not executable" if code == NOT_EXECUTABLE else "command not found"
        return ExecutionResult.failed(FailureKind.PERMANENT, f"exit code {code} ({meaning})", exit_code=code)
    hint = _limits_hint(context, code - SIGNALLED) if code is not None and code > SIGNALLED else ""
    return ExecutionResult.failed(FailureKind.RETRYABLE, f"exit code {code}{hint}", exit_code=code)


def _not_started(context: ExecutionContext, config: ShellConfig, problem: str) -> str:
    step, _, words = problem.partition(": ")
    if step == "cwd":
        return f"cwd: {config.cwd!r} cannot be entered: {words}"
    if words == os.strerror(errno.E2BIG):
        return f"args and env: together larger than a process may be given: {words}"
    if step == "limit" or words == os.strerror(errno.ENOMEM):
        return f"resources.memory: {context.resources.get('memory')} bytes do not even start {config.shell}: {words}"
    return f"shell: {config.shell!r} cannot be run: {words}"


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


def _file_text(path: Path, limit: int) -> bytes:
    where = "the file in $UPBEAT_RESULT"
    try:
        # The command may have put anything there: a link to another's file, a FIFO that nobody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadField("result", where, "there: the command did not write it") from None
    except OSError as error:
        raise BadField("result", where, f"readable: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadField("result", where, "a regular file")
        text = file.read(limit + 1)
    if len(text) > limit:
        raise BadField("result", where, f"at most {limit} bytes long")
    return text


def _parsed(text: bytes, where: str) -> Any:
    if not text.strip():
        raise BadField("result", where, "JSON: it is empty")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadField("result", f"{where}, {_shown(text.decode(errors='replace').strip())},", "JSON") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.startswith("the ") else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
