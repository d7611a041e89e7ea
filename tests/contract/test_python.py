"""The python executor under its contract, and what a call may return, raise or do instead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executors import LongRunningContract, Recorder
from tests.contract.local_processes import CALLS, run
from tests.support.waiting import eventually
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.process import LocalProcess

ENV = {"PYTHONPATH": CALLS}


class TestPython(LongRunningContract):
    type = "python"
    good: Mapping[str, Any] = {"call": "sample_calls:add", "args": [1], "kwargs": {"b": 2}, "env": ENV}
    bad = (
        ({}, "call"),
        ({"call": "sample_calls"}, "call"),
        ({"call": "sample_calls:"}, "call"),
        ({"call": "operator:add", "args": "1, 2"}, "args"),
        ({"call": "operator:add", "kwargs": ["a"]}, "kwargs"),
        ({"call": "operator:add", "python": "venv/bin/python"}, "python"),
        ({"call": "operator:add", "env": {"NO-NAME": "1"}}, "NO-NAME"),
        ({"call": "operator:add", "cwd": "relative"}, "cwd"),
        ({"call": "operator:add", "command": "true"}, "command"),
    )
    unusable = (
        ({"call": "operator:add", "python": "/no/such/python"}, "python"),
        ({"call": "operator:add", "python": "no_such_python"}, "python"),
        ({"call": "operator:add", "cwd": "/no/such/folder"}, "cwd"),
        ({"call": "operator:add", "env": {"DAY": "a\0b"}}, "env.DAY"),
        ({"call": "no_such_module:build"}, "call"),
        ({"call": "operator:no_such_function"}, "call"),
        ({"call": "string:digits"}, "call"),
        ({"call": "broken_import:build", "env": ENV}, "call"),
        ({"call": "sample_calls:wants_two", "kwargs": {"first": 1}, "env": ENV}, "kwargs"),
        ({"call": "sample_calls:date", "env": ENV}, "result"),
    )

    def long(self, witness: Path) -> Mapping[str, Any]:
        return {"call": "sample_calls:append_forever", "kwargs": {"witness": str(witness)}, "env": ENV}

    def telling(self, parameter: str) -> Mapping[str, Any]:
        return {"call": "sample_calls:tell", "kwargs": {"key": f"${{params.{parameter}}}"}, "env": ENV}

    def flood(self) -> Mapping[str, Any]:
        return {"call": "sample_calls:flood", "env": ENV}


def call(workdir: Path, function: str, *args: Any, **options: Any) -> ExecutionResult:
    config = {"call": f"sample_calls:{function}", "args": list(args), "env": ENV, **options.pop("fields", {})}
    return run("python", config, workdir, **options)


def test_what_a_call_returns_is_the_result(tmp_path: Path) -> None:
    assert call(tmp_path, "add", 1, fields={"kwargs": {"b": 2}}).result == 3
    assert call(tmp_path, "Report.title", "2026-11-21").result == {"day": "2026-11-21"}
    assert call(tmp_path, "add_later", "ü", "ß").result == "üß"
    assert call(tmp_path, "leave").result is None


def test_an_exception_is_a_failure_with_its_last_lines_as_the_reason_and_the_traceback_in_the_log(
    tmp_path: Path,
) -> None:
    log = Recorder()

    result = call(tmp_path, "fail", log=log)

    assert (result.failure, result.exit_code) == (FailureKind.RETRYABLE, 1)
    assert result.reason.startswith("ValueError: no rows for that day (line ")
    assert result.reason.endswith("sample_calls.py, in _inner)")
    assert log.data.startswith(b"Traceback (most recent call last):\n")
    assert b"in fail\n" in log.data
    assert b"python_call.py" not in log.data


def test_what_fails_while_a_module_is_imported_may_be_tried_again(tmp_path: Path) -> None:
    result = run("python", {"call": "raises_at_import:build", "env": ENV}, tmp_path)

    assert (result.failure, result.reason[:37]) == (FailureKind.RETRYABLE, "RuntimeError: no database at import (")


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("no_such", [], "call: the module 'sample_calls' has no 'no_such'"),
        ("NOT_A_FUNCTION", [], "call: sample_calls:NOT_A_FUNCTION is not a function: int"),
        ("wants_two", [1], "args and kwargs: wants_two() missing 1 required positional argument: 'second'"),
        ("date", [], "result: the returned dict is not JSON: Object of type date is not JSON serializable"),
        (
            "not_a_number",
            [],
            "result: the returned float is not JSON: Out of range float values are not JSON compliant",
        ),
        ("endless", [], "result: the returned list is not JSON: Circular reference detected"),
        ("big", [2000], "result: the returned str has more than 1000 bytes as JSON"),
    ],
)
def test_what_no_other_try_can_help_is_permanent(tmp_path: Path, function: str, args: list[Any], reason: str) -> None:
    result = call(tmp_path, function, *args, process=LocalProcess(result_bytes=1000))

    assert (result.failure, result.reason) == (FailureKind.PERMANENT, reason)


@pytest.mark.parametrize(
    ("function", "args", "reason", "code"),
    [
        ("leave", [0], "", 0),
        ("leave", [3], "exit code 3", 3),
        ("leave", ["no input today"], "no input today", 1),
        ("vanish", [0], "exit code 0 before the call returned", 0),
        ("vanish", [5], "exit code 5 before the call returned", 5),
        ("leave_badly", [], "exit code 9 after the call returned", 9),
    ],
)
def test_a_call_that_leaves_says_how(tmp_path: Path, function: str, args: list[Any], reason: str, code: int) -> None:
    result = call(tmp_path, function, *args)

    assert (result.failure, result.reason, result.exit_code) == (
        FailureKind.RETRYABLE if reason else None,
        reason,
        code,
    )


def test_a_wrong_type_deeper_down_is_an_exception_like_any_other(tmp_path: Path) -> None:
    result = call(tmp_path, "type_error_within")

    assert result.failure is FailureKind.RETRYABLE
    assert result.reason.startswith("TypeError: object of type 'int' has no len()")


def test_a_call_runs_where_the_task_says_and_sees_modules_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "reports.py").write_text("import os\ndef build(day): return [day, os.getcwd()]\n")
    fields = {"call": "reports:build", "kwargs": {"day": 1}, "cwd": str(tmp_path / "there")}

    assert run("python", fields, tmp_path).result == [1, str(tmp_path / "there")]


def test_no_module_of_ours_stands_in_the_way_of_a_tasks_own(tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text("def go(): return __file__\n")

    assert run("python", {"call": "runner:go"}, tmp_path).result == str(tmp_path / "runner.py")
    assert run("python", {"call": "subprocesses:run_tree"}, tmp_path).failure is FailureKind.PERMANENT


def test_arguments_stand_in_no_argument_list_and_in_no_file_that_others_can_read(tmp_path: Path) -> None:
    result = call(tmp_path, "arguments_in_sight", "kept-out-of-sight")

    assert "python_call.py" in result.result
    assert "kept-out-of-sight" not in result.result
    assert not (tmp_path / "call" / "request.json").exists()
    assert stat.S_IMODE((tmp_path / "call").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "call" / "ending.json").stat().st_mode) == 0o600


def _pythons() -> list[str]:
    """Each Python of this machine that a task may name, one of each version."""
    found: dict[str, str] = {}
    places = [*Path.home().glob(".pyenv/versions/3.*/bin/python3"), Path("/usr/bin/python3")]
    for path in places:
        if os.access(path, os.X_OK):
            asked = subprocess.run(
                [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
            )
            version = asked.stdout.split()
            if asked.returncode == 0 and int(version[1]) >= 8:
                found.setdefault(".".join(version), str(path))
    return list(found.values())


@pytest.mark.parametrize("python", _pythons())
def test_a_call_is_made_in_the_python_that_the_task_names(tmp_path: Path, python: str) -> None:
    asked = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True)

    result = call(tmp_path, "environment", fields={"python": python})

    assert result.result["version"] == [int(part) for part in asked.stdout.split()]
    assert result.result["argv"] == ["sample_calls:environment"]
    assert call(tmp_path, "fail", fields={"python": python}).reason.startswith("ValueError: no rows for that day")


def test_a_python_is_looked_up_in_the_path_of_the_task(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(os.path.realpath(sys.executable))
    config = {"call": "sample_calls:add", "args": [1], "python": "mine", "env": {**ENV, "PATH": str(tmp_path)}}

    assert run("python", config, tmp_path).result == 2


def test_what_is_no_python_returned_nothing(tmp_path: Path) -> None:
    assert call(tmp_path, "add", fields={"python": "/bin/true"}).reason == "exit code 0 before the call returned"


def test_a_call_is_stopped_like_a_command(tmp_path: Path) -> None:
    log, stop = Recorder(), StopSignal()
    threading.Thread(target=lambda: (eventually(lambda: b"up" in log.data), stop.request("cancelled"))).start()
    result = call(tmp_path, "append_forever", str(tmp_path / "witness"), log=log, stop=stop)

    assert (result.failure, result.exit_code) == (FailureKind.STOPPED, 143)
