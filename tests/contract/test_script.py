"""The script executor under its contract, and how its text meets its interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executors import LongRunningContract, Recorder
from tests.contract.local_processes import run
from workers.executors.base import FailureKind

PYTHON = ["python3", "-u"]


class TestScript(LongRunningContract):
    type = "script"
    good: Mapping[str, Any] = {
        "interpreter": PYTHON,
        "script": "import sys\nprint(sys.argv[1:])\n",
        "args": ["a", 1],
        "env": {"DAY": "2026-11-21"},
    }
    bad = (
        ({}, "script"),
        ({"script": ""}, "script"),
        ({"script": "true", "interpreter": "python3 -u"}, "interpreter"),
        ({"script": "true", "interpreter": []}, "interpreter"),
        ({"script": "true", "interpreter": ["bin/python"]}, "interpreter"),
        ({"script": "true", "args": "one two"}, "args"),
        ({"script": "true", "env": {"NO-NAME": "1"}}, "NO-NAME"),
        ({"script": "true", "cwd": "relative"}, "cwd"),
        ({"script": "true", "result": "xml"}, "result"),
        ({"script": "true", "success_codes": [-1]}, "success_codes"),
        ({"script": "true", "command": "true"}, "command"),
    )
    unusable = (
        ({"script": "true\0"}, "script"),
        ({"script": "true", "interpreter": ["no_such_interpreter"]}, "interpreter"),
        ({"script": "true", "interpreter": ["/no/such/interpreter"]}, "interpreter"),
        ({"script": "#!/no/such/interpreter\n"}, "interpreter"),
        ({"script": "true", "args": ["a\0b"]}, "args[0]"),
        ({"script": "true", "cwd": "/no/such/folder"}, "cwd"),
    )

    def long(self, witness: Path) -> Mapping[str, Any]:
        return {"script": 'echo up\nwhile :; do echo . >> "$1"; sleep 0.05; done', "args": [str(witness)]}

    def telling(self, parameter: str) -> Mapping[str, Any]:
        text = (
            "import base64, json, os, sys, urllib.parse as u\nkey = os.environ['KEY']\n"
            "print(key, base64.b64encode(key.encode()).decode(), u.quote(key, safe=''))\n"
            "print(key, file=sys.stderr)\nprint(json.dumps({key: key}))\n"
        )
        return {"interpreter": PYTHON, "script": text, "env": {"KEY": f"${{params.{parameter}}}"}, "result": "json"}

    def flood(self) -> Mapping[str, Any]:
        return {"script": "yes 'a line of output that never ends'"}


@pytest.mark.parametrize(
    ("script", "fields", "output"),
    [
        ("echo $0 | sed 's:.*/::'; echo $1", {"args": ["one"]}, b"script\none\n"),
        ("import sys; print(sys.version_info[0])", {"interpreter": ["python3"]}, b"3\n"),
        ("#!/usr/bin/env python3\nprint(40 + 2)\n", {}, b"42\n"),
        ("#!/bin/sh -e\nfalse\necho not reached\n", {"success_codes": [1]}, b""),
        ("#! /usr/bin/env -S python3 -O\nassert False\nprint('ok')", {}, b"ok\n"),
        ("stat -c %a $0", {}, b"600\n"),
        ("echo ${HOME:+set} $${", {"success_codes": [0, 1, 2]}, None),
    ],
)
def test_a_script_meets_its_interpreter(
    tmp_path: Path, script: str, fields: dict[str, Any], output: bytes | None
) -> None:
    log = Recorder()

    result = run("script", {"script": script, **fields}, tmp_path, log=log)

    assert result.failure is None
    assert output is None or log.data == output


def test_the_interpreter_is_looked_up_in_the_path_of_the_task(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to("/bin/sh")
    log = Recorder()

    config = {"script": "echo found", "interpreter": ["mine"], "env": {"PATH": str(tmp_path)}}

    assert run("script", config, tmp_path, log=log).failure is None
    assert log.data == b"found\n"


def test_a_script_gives_a_result_as_a_command_does(tmp_path: Path) -> None:
    printed = run("script", {"script": """echo '{"n": 1}'""", "result": "json"}, tmp_path)
    written = run("script", {"script": 'echo "[2]" > "$UPBEAT_RESULT"', "result": "file"}, tmp_path)

    assert (printed.result, written.result) == ({"n": 1}, [2])
    assert run("script", {"script": "exit 127"}, tmp_path).failure is FailureKind.PERMANENT
    assert run("script", {"script": "exit 3"}, tmp_path).reason == "exit code 3"
