"""The supervisor with small programs in place of listeners: they die, stand still, ignore signals and leave children."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import eventually, stays
from triggers.listeners import supervisor as supervising
from triggers.listeners.supervisor import Part, Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

#: Reports progress, notes its pid under its arguments, ends in order when asked.
WORKS = """
    import os, signal, sys, threading, time
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
    time.sleep(0.5)
    open(os.path.join(os.environ["NOTES"], f"{sys.argv[1]}.{os.getpid()}"), "w").close()
    while not stop.wait(0.05):
        open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
"""
STANDS_STILL = """
    import os, sys, time
    open(os.path.join(os.environ["NOTES"], f"{sys.argv[1]}.{os.getpid()}"), "w").close()
    open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
    time.sleep(600)
"""
DIES = """
    import os, sys
    open(os.path.join(os.environ["NOTES"], f"{sys.argv[1]}.{os.getpid()}"), "w").close()
    sys.exit(7)
"""
IGNORES_AND_HAS_A_CHILD = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    open(os.path.join(os.environ["NOTES"], f"{sys.argv[1]}.{os.getpid()}"), "w").close()
    open(os.path.join(os.environ["NOTES"], f"child.{child.pid}"), "w").close()
    while True:
        open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
        time.sleep(0.05)
"""


class Stage:
    """A supervisor in a thread, over parts that a test may change."""

    def __init__(self, notes: Path) -> None:
        self.notes, self.parts, self.stop, self.codes = notes, list[Part](), threading.Event(), list[int]()
        self.supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None

    def part(self, name: str, *, version: int = 1) -> Part:
        return Part(name, name, (name.replace(":", "-"),), version)

    def supervise(self, program: str, *names: str, silent_seconds: float = 60.0) -> None:
        self.parts[:] = [self.part(name) for name in names]
        command = (sys.executable, "-c", textwrap.dedent(program))
        self.supervisor = Supervisor(
            lambda: list(self.parts), stop=self.stop, command=command, silent_seconds=silent_seconds
        )
        self._thread = threading.Thread(target=lambda: self.codes.append(self.supervisor.run()))  # type: ignore[union-attr]
        self._thread.start()

    def pids(self, name: str) -> list[int]:
        """All that ever ran under a name, oldest first."""
        found = sorted(self.notes.glob(f"{name.replace(':', '-')}.*"), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.suffix[1:]) for file in found]

    def living(self, name: str) -> list[int]:
        return [pid for pid in self.pids(name) if alive(pid)]

    def only(self, name: str) -> int:
        return eventually(lambda: self.living(name)[0] if len(self.living(name)) == 1 else 0, within=10)

    def end(self) -> int:
        self.stop.set()
        assert self._thread is not None
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        return self.codes[0]


def alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setattr(supervising, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(supervising, "forget_dead", lambda: 0)
    stage = Stage(tmp_path)
    yield stage
    if not stage.codes:
        stage.end()
    left = [pid for file in tmp_path.iterdir() if alive(pid := int(file.suffix[1:]))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a process was left running"


def test_each_part_gets_a_process_and_all_end_in_order(stage: Stage) -> None:
    stage.supervise(WORKS, "source:1:0", "source:1:1", "roles:timers")
    for name in ("source:1:0", "source:1:1", "roles:timers"):
        stage.only(name)

    assert stage.end() == 0
    assert not any(stage.living(name) for name in ("source:1:0", "source:1:1", "roles:timers"))


def test_a_killed_process_is_started_again_and_the_others_are_left_alone(stage: Stage) -> None:
    stage.supervise(WORKS, "source:1:0", "source:2:0")
    first, other = stage.only("source:1:0"), stage.only("source:2:0")

    os.kill(first, signal.SIGKILL)

    eventually(lambda: stage.living("source:1:0") not in ([], [first]), within=10)
    assert stage.only("source:2:0") == other


def test_a_process_that_stands_still_is_killed_and_started_again(stage: Stage) -> None:
    stage.supervise(STANDS_STILL, "source:1:0", silent_seconds=1.0)
    first = stage.only("source:1:0")

    eventually(lambda: not alive(first), within=10)
    eventually(lambda: len(stage.pids("source:1:0")) >= 2, within=10)


def test_a_stopped_process_counts_as_standing_still(stage: Stage) -> None:
    stage.supervise(WORKS, "source:1:0", silent_seconds=1.5)
    first = stage.only("source:1:0")

    os.kill(first, signal.SIGSTOP)

    eventually(lambda: not alive(first), within=10)
    assert stage.only("source:1:0") != first


def test_one_that_dies_again_and_again_is_started_ever_more_rarely_and_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(supervising.Hosted, "_tell", lambda self, reason: told.append(reason))
    monkeypatch.setattr(supervising, "FIRST_DELAY", 0.1)

    stage.supervise(DIES, "source:1:0")
    eventually(lambda: told, within=20)

    assert "exit code 7" in told[0]
    began = len(stage.pids("source:1:0"))
    stays(lambda: len(stage.pids("source:1:0")) <= began + 1, during=0.5)


def test_a_changed_source_gets_a_new_process_after_the_old_one_has_ended(stage: Stage) -> None:
    stage.supervise(WORKS, "source:1:0")
    first = stage.only("source:1:0")

    stage.parts[:] = [stage.part("source:1:0", version=2)]

    eventually(lambda: not alive(first), within=10)
    assert stage.only("source:1:0") != first


def test_a_disabled_source_loses_its_process_and_a_new_one_gets_its_own(stage: Stage) -> None:
    stage.supervise(WORKS, "source:1:0")
    first = stage.only("source:1:0")

    stage.parts[:] = [stage.part("source:2:0")]

    eventually(lambda: not alive(first), within=10)
    stage.only("source:2:0")
    assert stage.living("source:1:0") == []


def test_one_that_ignores_its_end_is_killed_with_its_child(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "STOP_SECONDS", 1.0)
    stage.supervise(IGNORES_AND_HAS_A_CHILD, "source:1:0")
    stage.only("source:1:0")
    child = eventually(lambda: stage.pids("child"), within=10)[0]

    began = time.monotonic()
    code = stage.end()

    assert code == 1, "it did not end in order"
    assert time.monotonic() - began < 5
    eventually(lambda: not alive(child), within=5)


def test_a_dead_process_leaves_no_child_behind(stage: Stage) -> None:
    stage.supervise(IGNORES_AND_HAS_A_CHILD, "source:1:0")
    first = stage.only("source:1:0")
    child = eventually(lambda: stage.pids("child"), within=10)[0]

    os.kill(first, signal.SIGKILL)

    eventually(lambda: not alive(child), within=10)
    stage.stop.set()
    assert stage.supervisor is not None
    stage.supervisor.kill_all()
