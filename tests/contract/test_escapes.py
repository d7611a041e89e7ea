"""What a local process may try in order to outlive its attempt, or to take more than its share."""

from __future__ import annotations

import random
import threading
import time
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import LocalStore, log_key
from tests.contract.executors import LOCAL, Host, Recorder, inputs_for
from tests.contract.local_processes import CALLS, fields_of, run
from tests.support.waiting import eventually
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.process import LocalProcess
from workers.runtime.execution import execute_attempt

BOMB = """
import os, sys, time
end = time.monotonic() + 15  # the machine survives, whatever fails here
def grow(depth):
    children = set()
    while time.monotonic() < end:
        while depth and len(children) < 2:
            pid = os.fork()
            if pid == 0:
                grow(depth - 1)
                os._exit(0)
            children.add(pid)
        if children:
            children.discard(os.waitpid(-1, 0)[0])  # and a new one takes its place
        else:
            time.sleep(0.02)
grow(5)
"""

HOPPER = """
import os, time
end = time.monotonic() + 15
while time.monotonic() < end:
    if os.fork():
        os._exit(0)  # a new process id every millisecond
"""

SESSION_HOPPER = """
import os, time
end = time.monotonic() + 15
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()  # and a new group, so that no signal to a group meets it
"""

DAEMON = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.closerange(0, 100)
time.sleep(600)
"""

HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)  # what is left looks like a zombie
"""

ESCAPES = {
    "in_the_background": "sleep 600 &",
    "in_a_session_of_its_own": "setsid sleep 600 &",
    "forked_twice": f"python3 -c '{DAEMON}'",
    "nohup": "nohup sleep 600 > /dev/null 2>&1 &",
    "with_closed_streams": "sh -c 'sleep 600; true' <&- >&- 2>&- &",
    "ignoring_every_polite_signal": "sh -c \"trap '' TERM INT HUP; while :; do sleep 600; done\" &",
    "with_an_empty_environment": 'env -i setsid sleep "600.$MARK" &',
    "stopped": "sh -c 'kill -STOP $$; sleep 600' &",
    "flooding_its_output": "setsid yes &",
    "as_a_thread_whose_process_looks_dead": f"setsid python3 -c '{HEADLESS}' $MARK &",
    "as_a_fork_bomb": f"python3 -c '{BOMB}' $MARK &",
    "as_a_bomb_that_ignores_signals": f"trap '' TERM; python3 -c '{BOMB}' $MARK & python3 -c '{BOMB}' $MARK &",
    "hopping_from_process_to_process": f"trap '' TERM; python3 -c '{HOPPER}' $MARK &",
    "hopping_from_session_to_session": f"trap '' TERM; python3 -c '{SESSION_HOPPER}' $MARK &",
}


class Marked:
    """An escape under a mark by which every process of it is found, whatever it did to its parents."""

    def __init__(self, text: str, ready: Path) -> None:
        self.ready = ready
        self.mark = str(random.randrange(10**9, 10**10))
        self.env = {"MARK": self.mark, "READY": str(ready)}
        self.text = f'{text}\nsleep 0.2; touch "$READY"; sleep 600'

    def alive(self) -> list[str]:
        # By thread: a process whose first thread has ended says nothing for itself.
        # (`Path.glob` fails on a directory that goes away under it.)
        return [thread for thread in glob("/proc/[0-9]*/task/[0-9]*") if self._marks(Path(thread))]

    def _marks(self, thread: Path) -> bool:
        try:
            if thread.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                return False
            mark = self.mark.encode()
            environ = thread.joinpath("environ").read_bytes().split(b"\0")
            return b"MARK=" + mark in environ or mark in thread.joinpath("cmdline").read_bytes()
        except (OSError, IndexError):
            return False


TYPES = tuple(LOCAL)
#: One runner for all types, so the other types play an escape of each kind.
FEW = ("forked_twice", "ignoring_every_polite_signal", "as_a_fork_bomb", "nohup", "with_closed_streams")
ESCAPED = pytest.mark.parametrize(
    ("task_type", "escape"),
    [
        pytest.param(task_type, name, id=f"{task_type}-{name}")
        for task_type in TYPES
        for name in (ESCAPES if task_type == "shell" else FEW)
    ],
)


@ESCAPED
def test_nothing_escapes_a_timeout(task_type: str, escape: str, tmp_path: Path) -> None:
    marked = Marked(ESCAPES[escape], tmp_path / "ready")

    result = run(task_type, fields_of(task_type, marked.text, env=marked.env), tmp_path, timeout=0.8)

    assert result.failure is FailureKind.TIMEOUT
    assert marked.alive() == []


@ESCAPED
def test_nothing_escapes_a_stop(task_type: str, escape: str, tmp_path: Path) -> None:
    marked, stop = Marked(ESCAPES[escape], tmp_path / "ready"), StopSignal()
    seen: list[list[str]] = []

    def stop_when_ready() -> None:
        eventually(marked.ready.exists)
        seen.append(marked.alive())
        stop.request("cancelled")

    threading.Thread(target=stop_when_ready).start()

    result = run(task_type, fields_of(task_type, marked.text, env=marked.env), tmp_path, stop=stop)

    assert result.failure is FailureKind.STOPPED
    assert seen[0], "the escape was seen by nobody, so this proves nothing"
    assert marked.alive() == []


@ESCAPED
def test_nothing_escapes_the_death_of_the_worker(task_type: str, escape: str, tmp_path: Path) -> None:
    marked = Marked(ESCAPES[escape], tmp_path / "ready")
    host = Host(tmp_path / "host", task_type, fields_of(task_type, marked.text, env=marked.env))
    eventually(marked.ready.exists)

    host.kill()

    eventually(lambda: marked.alive() == [], within=8)


@pytest.mark.parametrize("task_type", TYPES)
def test_nothing_escapes_the_end_of_its_command(task_type: str, tmp_path: Path) -> None:
    log, marked = Recorder(), Marked("", tmp_path / "ready")
    config = fields_of(task_type, "setsid sleep 600 & sleep 600 & exit 0", env=marked.env)

    result = run(task_type, config, tmp_path, log=log)

    assert result.failure is None
    assert marked.alive() == []
    assert b"[upbeat] ended 2 processes that the command left running" in log.data


@pytest.mark.parametrize("task_type", TYPES)
def test_what_ends_by_itself_soon_is_not_disturbed(task_type: str, tmp_path: Path) -> None:
    log = Recorder()

    run(task_type, fields_of(task_type, "(sleep 0.1; echo late) & exit 0"), tmp_path, log=log)

    assert log.data == b"late\n"


@pytest.mark.parametrize("escape", [name for name in ESCAPES if name != "with_an_empty_environment"])
def test_killing_the_runner_ends_the_tree_and_leaves_the_outcome_unknown(escape: str, tmp_path: Path) -> None:
    marked = Marked("", tmp_path / "ready")
    text = f"{ESCAPES[escape]}\nsetsid sleep 600 & (setsid setsid sleep 600 &)\nkill -9 $PPID; sleep 600"

    result = run("shell", fields_of("shell", text, env=marked.env), tmp_path)

    assert result.failure is FailureKind.UNKNOWN
    assert marked.alive() == []


@pytest.mark.parametrize("task_type", TYPES)
def test_what_obeys_has_time_to_clean_up(task_type: str, tmp_path: Path) -> None:
    log = Recorder()
    text = "trap 'sleep 0.1; echo cleaned up; exit 1' TERM; while :; do sleep 0.05; done"

    run(task_type, fields_of(task_type, text), tmp_path, timeout=0.8, log=log)

    assert b"cleaned up\n" in log.data


def test_the_worker_may_stop_many_at_once(tmp_path: Path) -> None:
    stop, marked = StopSignal(), Marked("", tmp_path / "ready")
    results: list[ExecutionResult] = []

    def attempt(folder: Path) -> None:
        folder.mkdir()
        results.append(run("shell", fields_of("shell", "sleep 600", env=marked.env), folder, stop=stop))

    threads = [threading.Thread(target=attempt, args=(tmp_path / str(n),)) for n in range(16)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(marked.alive()) >= 16)

    began = time.monotonic()
    stop.request("cancelled")
    for thread in threads:
        thread.join()

    assert [result.failure for result in results] == [FailureKind.STOPPED] * 16
    assert time.monotonic() - began < 6
    assert marked.alive() == []


def test_a_sink_that_raises_still_ends_the_tree(tmp_path: Path) -> None:
    """A worker that shuts down raises wherever its attempts happen to be."""
    marked = Marked("", tmp_path / "ready")

    class Leaving:
        def write(self, chunk: bytes) -> None:
            raise SystemExit

    config = fields_of("shell", "setsid sleep 600 & echo up; sleep 600", env=marked.env)
    with pytest.raises(SystemExit):
        run("shell", config, tmp_path, log=Leaving())

    assert marked.alive() == []


# More than its share.


def test_a_tree_that_outgrows_its_limit_is_ended(tmp_path: Path) -> None:
    marked = Marked("n=0; while [ $n -lt 1200 ]; do sleep 600 & n=$((n+1)); done", tmp_path / "ready")
    config = fields_of("shell", marked.text, env=marked.env)

    result = run("shell", config, tmp_path, process=LocalProcess(grace=0.3, processes=1000))

    assert (result.failure, result.reason) == (FailureKind.RETRYABLE, "more than 1000 processes at once")
    assert marked.alive() == []


@pytest.mark.parametrize("task_type", TYPES)
def test_a_bomb_that_nothing_else_stops_ends_at_its_limit(task_type: str, tmp_path: Path) -> None:
    marked = Marked(f"trap '' TERM; python3 -c '{BOMB}' $MARK & python3 -c '{BOMB}' $MARK", tmp_path / "ready")

    result = run(
        task_type,
        fields_of(task_type, marked.text, env=marked.env),
        tmp_path,
        process=LocalProcess(grace=0.3, processes=60),
    )

    assert result.reason == "more than 60 processes at once"
    assert marked.alive() == []


@pytest.mark.parametrize("task_type", TYPES)
def test_a_tree_within_its_limit_is_left_alone(task_type: str, tmp_path: Path) -> None:
    text = "n=0; while [ $n -lt 20 ]; do sleep 0.4 & n=$((n+1)); done; wait"

    assert run(task_type, fields_of(task_type, text), tmp_path, process=LocalProcess(processes=30)).failure is None


@pytest.mark.parametrize("task_type", TYPES)
def test_memory_and_file_size_are_limited(task_type: str, tmp_path: Path) -> None:
    log = Recorder()
    text = "python3 -c 'bytearray(10**9)' || head -c 2000000 /dev/zero > big"

    run(
        task_type,
        fields_of(task_type, text),
        tmp_path,
        resources={"memory": 200 * 2**20},
        process=LocalProcess(file_size=1_000_000),
        log=log,
    )

    assert b"MemoryError" in log.data
    assert (tmp_path / "big").stat().st_size == 1_000_000


@pytest.mark.parametrize("task_type", TYPES)
def test_a_full_store_costs_the_log_but_not_the_attempt(
    task_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalStore(tmp_path / "store")
    log = tmp_path / "store" / "logs" / "0" / "7" / "700.log"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")  # takes no byte: no space left on device
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    outcome = execute_attempt(
        inputs_for(task_type, fields_of(task_type, "echo begun; head -c 1000000 /dev/zero | tr '\\0' x; echo done")),
        reveal=lambda names: {},
        store=store,
        stop=StopSignal(),
        scratch=scratch,
    )

    assert outcome.result.failure is None
    assert outcome.log_bytes_lost == 1_000_011
    assert "No space left on device" in outcome.log_problem
    # A full store takes no word about that either, so the worker's own log says it.
    assert "1000011 bytes of an attempt's log could not be kept" in caplog.text
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("task_type", "fields"),
    [
        ("shell", {"command": 'echo "no $KEY here"', "result": "json"}),
        ("script", {"script": 'echo "no $KEY here"', "result": "json"}),
        ("python", {"call": "sample_calls:fail", "kwargs": {"message": "${params.key}"}}),
        ("python", {"call": "sample_calls:leave", "kwargs": {"code": "cannot use ${params.key}"}}),
    ],
)
def test_the_reason_of_a_failure_shows_no_secret(task_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")

    outcome = execute_attempt(
        inputs_for(
            task_type,
            {**fields, "env": {"KEY": "${params.key}", "PYTHONPATH": CALLS}},
            parameters={"key": {"secret": "stored"}},
            secret_parameters=["key"],
        ),
        reveal=lambda names: {"stored": "kept-out-of-sight"},
        store=store,
        stop=StopSignal(),
        scratch=tmp_path,
    )

    assert outcome.result.failure is not None
    assert "***" in outcome.result.reason
    assert b"***" in store.read(log_key(7, 700))
    assert "kept-out-of-sight" not in repr(outcome) + store.read(log_key(7, 700)).decode()
