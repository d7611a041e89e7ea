"""The executors under their contract, and what a shell command may try in order to outlive its attempt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from orchestrator import registry as open_registry
from tests.contract.executors import ExecutorContract, LongRunningContract, Recorder, context_for
from tests.support.waiting import eventually
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.process import LocalProcess
from workers.executors.registry import UnknownTaskType, executor_for, register_task_types
from workers.executors.shell import ShellExecutor


class TestNoop(ExecutorContract):
    type = "noop"
    good: Mapping[str, Any] = {}


class TestShell(LongRunningContract):
    type = "shell"
    good: Mapping[str, Any] = {"command": "echo done", "args": ["a", 1], "env": {"DAY": "2026-11-21"}, "result": "none"}
    bad = (
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": "true", "args": "one two"}, "args"),
        ({"command": "true", "env": {"NO-NAME": "1"}}, "NO-NAME"),
        ({"command": "true", "env": ["A=1"]}, "env"),
        ({"command": "true", "shell": "bash"}, "shell"),
        ({"command": "true", "cwd": "relative"}, "cwd"),
        ({"command": "true", "result": "xml"}, "result"),
        ({"command": "true", "success_codes": [256]}, "success_codes"),
        ({"command": "true", "comand": "true"}, "comand"),
    )
    unusable = (
        ({"command": "true", "args": ["a\0b"]}, "args[0]"),
        ({"command": "true", "env": {"DAY": "a\0b"}}, "env.DAY"),
        ({"command": "true", "env": {"DAY": "\ud800"}}, "env.DAY"),
        ({"command": "true", "shell": "/no/such/shell"}, "shell"),
        ({"command": "true", "cwd": "/no/such/folder"}, "cwd"),
        ({"command": "true", "args": ["x" * 200_000]}, "args"),
    )

    def long(self, witness: Path) -> Mapping[str, Any]:
        return {
            "command": 'echo up; while :; do echo . >> "$1"; sleep 0.05; done',
            "args": [str(witness)],
        }

    def telling(self, parameter: str) -> Mapping[str, Any]:
        return {
            "command": 'echo "key $KEY"; printf %s "$KEY" | base64; echo "$KEY" >&2; echo "{\\"$KEY\\": \\"$KEY\\"}"',
            "env": {"KEY": f"${{params.{parameter}}}"},
            "result": "json",
        }

    def flood(self) -> Mapping[str, Any]:
        return {"command": "yes 'a line of output that never ends'"}


def run(workdir: Path, command: str, *, resources: Mapping[str, Any] | None = None, **fields: Any) -> ExecutionResult:
    executor = fields.pop("executor", None) or ShellExecutor(LocalProcess(grace=0.3))
    context = {name: fields.pop(name) for name in ("timeout", "log", "stop", "environment") if name in fields}
    return executor.execute(context_for({"command": command, **fields}, workdir, resources=resources, **context))


# What an exit means.


@pytest.mark.parametrize(
    ("command", "kind", "reason", "code"),
    [
        ("exit 3", FailureKind.RETRYABLE, "exit code 3", 3),
        ("no_such_program", FailureKind.PERMANENT, "exit code 127 (command not found)", 127),
        ("/etc/passwd", FailureKind.PERMANENT, "exit code 126 (not executable)", 126),
        ("kill -9 $$", FailureKind.RETRYABLE, "killed by signal 9", 137),
        ("sh -c 'kill -9 $$'; exit $?", FailureKind.RETRYABLE, "exit code 137", 137),
    ],
)
def test_the_end_of_a_command_says_whether_another_try_may_help(
    tmp_path: Path, command: str, kind: FailureKind, reason: str, code: int
) -> None:
    result = run(tmp_path, command)

    assert (result.failure, result.reason, result.exit_code) == (kind, reason, code)


def test_other_exit_codes_may_mean_success(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 75", success_codes=[0, 75]).failure is None
    assert run(tmp_path, "exit 0", success_codes=[75]).reason == "exit code 0"


def test_parameters_reach_the_command_but_are_never_parsed_as_shell(tmp_path: Path) -> None:
    log = Recorder()

    run(tmp_path, 'printf "%s|" "$@" "$WHO"', args=["$(id); rm -rf x", True, 3], env={"WHO": "a' b"}, log=log)

    assert log.data == b"$(id); rm -rf x|true|3|a' b|"


def test_a_command_sees_nothing_of_the_workers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPBEAT_SECRET_KEY", "very-secret")
    log = Recorder()

    run(tmp_path, "env; tr '\\0' '\\n' < /proc/$PPID/environ", environment={"UPBEAT_RUN_ID": "7"}, log=log)

    assert b"UPBEAT_RUN_ID=7" in log.data
    assert b"PYTHONUNBUFFERED=1" in log.data
    assert b"very-secret" not in log.data


def test_a_secret_in_the_environment_stands_in_no_argument_list(tmp_path: Path) -> None:
    log = Recorder()

    run(tmp_path, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", env={"KEY": "kept-out-of-sight"}, log=log)

    assert log.data
    assert b"kept-out-of-sight" not in log.data


def test_signals_that_python_ignores_are_not_ignored_by_commands(tmp_path: Path) -> None:
    log = Recorder()

    run(tmp_path, "grep SigIgn /proc/self/status", log=log)

    of_the_c_library = 1 << 31 | 1 << 32  # signals 32 and 33, which a program cannot set
    assert int(log.data.split()[1], 16) & ~of_the_c_library == 0


def test_both_streams_keep_their_order(tmp_path: Path) -> None:
    log = Recorder()

    run(tmp_path, "for n in 1 2 3; do echo out $n; echo err $n >&2; done", log=log)

    assert log.data == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"


def test_output_can_be_read_while_the_command_runs(tmp_path: Path) -> None:
    log, stop = Recorder(), StopSignal()
    thread = threading.Thread(target=run, args=(tmp_path, "echo first; sleep 600"), kwargs={"log": log, "stop": stop})
    thread.start()

    eventually(lambda: log.data == b"first\n", within=1)

    stop.request("cancelled")
    thread.join()


# Results.


def test_the_last_line_of_standard_output_is_the_result(tmp_path: Path) -> None:
    log = Recorder()

    result = run(tmp_path, """echo start; echo no >&2; echo '{"n": 4}'; echo; echo end >&2""", result="json", log=log)

    assert result.result == {"n": 4}
    assert set(log.data.split(b"\n")) >= {b"start", b"no", b'{"n": 4}', b"end"}


def test_a_file_may_be_the_result(tmp_path: Path) -> None:
    assert run(tmp_path, """echo '[1, 2]' > "$UPBEAT_RESULT" """, result="file").result == [1, 2]


@pytest.mark.parametrize(
    ("command", "result", "reason"),
    [
        ("echo {n: 4}", "json", "the last line of standard output, '{n: 4}', is not JSON"),
        ("true", "json", "the last line of standard output is not JSON: it is empty"),
        ("echo NaN", "json", "'NaN', is not JSON"),
        ("true", "file", "the command did not write it"),
        ('mkfifo "$UPBEAT_RESULT"', "file", "a regular file"),
        ('ln -s /etc/passwd "$UPBEAT_RESULT"', "file", "symbolic links"),
        ('echo x > "$UPBEAT_RESULT"', "file", "is not JSON"),
    ],
)
def test_an_unusable_result_is_a_permanent_failure(tmp_path: Path, command: str, result: str, reason: str) -> None:
    ended = run(tmp_path, command, result=result)

    assert ended.failure is FailureKind.PERMANENT
    assert ended.reason.startswith("result: ")
    assert reason in ended.reason


def test_a_result_above_the_limit_is_refused_without_being_held_in_memory(tmp_path: Path) -> None:
    executor = ShellExecutor(LocalProcess(result_bytes=1000))

    by_line = run(tmp_path, "head -c 2000 /dev/zero | tr '\\0' 1", result="json", executor=executor)
    by_file = run(tmp_path, 'head -c 2000 /dev/zero > "$UPBEAT_RESULT"', result="file", executor=executor)

    assert "at most 1000 bytes" in by_line.reason
    assert "at most 1000 bytes" in by_file.reason


# Limits.


def test_memory_is_limited(tmp_path: Path) -> None:
    log = Recorder()

    result = run(tmp_path, "python3 -c 'bytearray(10**9)'", resources={"memory": 200 * 2**20}, log=log)

    assert result.failure is FailureKind.RETRYABLE
    assert b"MemoryError" in log.data


def test_cpu_time_is_limited_by_cores_times_timeout(tmp_path: Path) -> None:
    result = run(tmp_path, "while :; do :; done", resources={"cpu": 0.05}, timeout=20)

    assert result.reason == "killed by signal 24 (CPU time limit 1 s)"


def test_file_size_is_limited(tmp_path: Path) -> None:
    result = run(
        tmp_path, "exec head -c 2000000 /dev/zero > big", executor=ShellExecutor(LocalProcess(file_size=1_000_000))
    )

    assert result.reason == "killed by signal 25 (file size limit)"
    assert (tmp_path / "big").stat().st_size == 1_000_000


def test_it_runs_in_a_forked_child_of_a_worker(tmp_path: Path) -> None:
    """As under the prefork pool: a child that was forked, not started afresh."""
    fork = get_context("fork")
    child = fork.Process(target=_succeed_in_child, args=(tmp_path,))

    child.start()
    child.join(20)

    assert child.exitcode == 0


def _succeed_in_child(workdir: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    result = run(workdir, "echo 1", result="json")
    os._exit(0 if result.result == 1 else 1)


# The registry.


def test_task_types_are_registered_once_however_often_it_is_asked() -> None:
    register_task_types()
    register_task_types()

    shell = open_registry.task_types.get("shell")
    assert shell is not None
    assert shell.fixed_text == ("command", "shell", "cwd")
    assert {"noop", "shell"} <= set(open_registry.task_types.names())


def test_an_unknown_task_type_is_named() -> None:
    with pytest.raises(UnknownTaskType, match="'shel'"):
        executor_for("shel")
