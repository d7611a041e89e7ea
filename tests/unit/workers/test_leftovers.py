"""What a killed runner leaves is found by the marks it carries, whatever became of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from workers.runtime.leftovers import MARKER, Swept, end_marked

VALUE = "5f1d7c5ad0ce4c6cb3b0d6f6f0a1b2c3"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], env={MARKER: VALUE}, start_new_session=True)
    eventually(lambda: VALUE.encode() in Path(f"/proc/{process.pid}/environ").read_bytes())
    yield process
    process.kill()
    process.wait()


def test_a_marked_process_is_gone_when_it_returns(sleeper: subprocess.Popen[bytes]) -> None:
    swept = end_marked(VALUE, session=0)

    assert swept == Swept(ended=1, survivors=0)
    assert sleeper.poll() == -signal.SIGKILL


def test_a_process_is_found_by_its_session_without_its_mark() -> None:
    process = subprocess.Popen(["sleep", "600"], env={}, start_new_session=True)

    assert end_marked(VALUE, session=process.pid) == Swept(ended=1, survivors=0)
    assert process.poll() == -signal.SIGKILL


def test_a_shell_that_was_stopped_while_it_takes_its_variables_apart_is_found() -> None:
    """As bash leaves its environment for a moment at its start: the equals sign is gone."""
    environ = {f"{MARKER}\N{FULLWIDTH EQUALS SIGN}{VALUE}": ""}
    process = subprocess.Popen(["sleep", "600"], env=environ, start_new_session=True)
    eventually(lambda: VALUE.encode() in Path(f"/proc/{process.pid}/environ").read_bytes())

    assert end_marked(VALUE, session=0).ended == 1
    assert process.wait(5) == -signal.SIGKILL


def test_others_are_left_alone_and_nothing_found_takes_no_time(sleeper: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()

    assert end_marked("0" * 32, session=0) == Swept()

    assert time.monotonic() - began < 5
    assert sleeper.poll() is None
    assert os.getsid(sleeper.pid) == sleeper.pid
