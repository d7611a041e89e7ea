"""The supervisor with real processes: small programs that die, hang, ignore signals and leave children behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.embedded import trees
from orchestrator.embedded.home import Home
from orchestrator.embedded.supervisor import Child, Supervisor
from tests.support.services import free_port
from tests.support.waiting import eventually, stays

pytestmark = pytest.mark.slow

REPORTS = """
    import os, time
    while True:
        open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
        time.sleep(0.1)
"""
REPORTS_ONCE = """
    import os, time
    open(os.environ["UPBEAT_PROGRESS_FILE"], "w").close()
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


class Stage:
    """Supervisors over one home; whatever they leave is ended with the test."""

    def __init__(self, home: Home) -> None:
        self.home, self.said, self._supervisors = home, list[str](), list[Supervisor]()

    def supervise(self, *children: Child, code: str = "") -> Supervisor:
        supervisor = Supervisor(self.home, children, say=self.said.append, code=code)
        self._supervisors.append(supervisor)
        supervisor.start()
        return supervisor

    def forget(self, supervisor: Supervisor) -> None:
        """What SIGKILL to the supervisor does: nobody watches any more, the children live on."""
        eventually(lambda: all(watch.find_survivor() for watch in supervisor._watches), within=10)
        supervisor._stopping.set()

    def pids(self, name: str) -> list[int]:
        return sorted(process.pid for process in trees.marked(f"{self.home.path}:{name}"))

    def only_pid(self, name: str) -> int:
        def one() -> int | None:
            pids = self.pids(name)
            return pids[0] if len(pids) == 1 else None

        return eventually(one, within=10, saying=f"one process of {name}")  # type: ignore[return-value]

    def close(self) -> None:
        for supervisor in self._supervisors:
            supervisor.stop()
        trees.kill_marked(f"{self.home.path}:")


@pytest.fixture
def stage(home: Home) -> Iterator[Stage]:
    stage = Stage(home)
    yield stage
    stage.close()


def child(name: str, program: str, **how: object) -> Child:
    return Child(name, (sys.executable, "-c", textwrap.dedent(program)), {"PATH": os.environ["PATH"]}, **how)  # type: ignore[arg-type]


def sleeper(name: str = "one", **how: object) -> Child:
    return child(name, "import time; time.sleep(600)", **how)


def said(stage: Stage, *words: str) -> Callable[[], bool]:
    return lambda: any(all(word in line for word in words) for line in stage.said)


def test_a_killed_child_is_started_again(stage: Stage) -> None:
    stage.supervise(sleeper())
    first = stage.only_pid("one")

    os.kill(first, signal.SIGKILL)

    second = eventually(lambda: [pid for pid in stage.pids("one") if pid != first], within=10)
    assert len(second) == 1
    assert said(stage, "one", "was killed by SIGKILL")()


def test_a_child_that_keeps_dying_is_started_less_and_less_often(stage: Stage) -> None:
    stage.supervise(child("one", "raise SystemExit(3)"))

    eventually(lambda: len(stage.said) >= 3, within=20)

    assert ["ended with exit code 3" in line for line in stage.said[:3]] == [True, True, True]
    assert ["in 0.5 s" in stage.said[0], "in 1 s" in stage.said[1], "in 2 s" in stage.said[2]] == [True, True, True]


def test_what_a_dead_child_left_running_is_ended_before_it_is_started_again(stage: Stage) -> None:
    program = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        time.sleep(600)
    """
    stage.supervise(child("one", program))
    before = eventually(lambda: len(pids := stage.pids("one")) == 2 and pids, within=10)
    assert before

    os.kill(before[0], signal.SIGKILL)

    eventually(lambda: len(pids := stage.pids("one")) == 2 and not set(pids) & set(before), within=10)


def test_a_child_that_stops_making_progress_is_replaced(stage: Stage) -> None:
    stage.supervise(child("one", REPORTS_ONCE, reports=True, stale_seconds=2))
    first = stage.only_pid("one")

    eventually(lambda: first not in stage.pids("one"), within=20)

    stage.only_pid("one")
    assert said(stage, "one has made no progress for")()


def test_a_frozen_child_is_replaced(stage: Stage) -> None:
    supervisor = stage.supervise(child("one", REPORTS, reports=True, stale_seconds=2))
    eventually(lambda: not supervisor.waiting_for(), within=10)
    first = stage.only_pid("one")

    os.kill(first, signal.SIGSTOP)

    eventually(lambda: first not in stage.pids("one"), within=20)
    stage.only_pid("one")


def test_a_child_one_part_of_which_stands_still_is_replaced(stage: Stage) -> None:
    program = """
        import os, time
        path = os.environ["UPBEAT_PROGRESS_FILE"]
        open(path + ".reconciler", "w").close()
        while True:
            open(path, "w").close()
            time.sleep(0.1)
    """
    stage.supervise(child("one", program, reports=True, stale_seconds=2))

    eventually(said(stage, "one has made no progress (reconciler)"), within=20)


def test_a_child_that_makes_progress_is_left_alone(stage: Stage) -> None:
    supervisor = stage.supervise(child("one", REPORTS, reports=True, stale_seconds=1))
    eventually(lambda: not supervisor.waiting_for(), within=10)
    first = stage.only_pid("one")

    stays(lambda: stage.pids("one") == [first], during=7)


def test_a_child_that_no_longer_answers_is_replaced(stage: Stage) -> None:
    answers = [True]
    supervisor = stage.supervise(sleeper(answers=lambda: answers[0], stale_seconds=1))
    eventually(lambda: not supervisor.waiting_for(), within=10)
    first = stage.only_pid("one")

    answers[0] = False

    eventually(lambda: first not in stage.pids("one"), within=20)
    assert said(stage, "one has not answered for")()


def test_a_child_without_what_it_needs_is_not_blamed(stage: Stage) -> None:
    child_ = sleeper(answers=lambda: False, judged_while=lambda: False, stale_seconds=1, start_seconds=1)
    stage.supervise(child_)
    first = stage.only_pid("one")

    stays(lambda: stage.pids("one") == [first], during=4)


def test_a_worker_that_accepts_nothing_of_what_waits_is_replaced(stage: Stage) -> None:
    program = """
        import os, time
        while True:
            with open(os.environ["UPBEAT_PROGRESS_FILE"], "w") as file:
                file.write('{"accepted": 7, "free": true}')
            time.sleep(0.1)
    """
    stage.supervise(child("one", program, reports=True, stale_seconds=2, backlog=lambda: 5))

    eventually(said(stage, "one has accepted none of the waiting messages"), within=30)


def test_a_second_supervisor_adopts_what_survived_the_first(stage: Stage) -> None:
    stage.forget(stage.supervise(sleeper()))
    first = stage.only_pid("one")

    second = stage.supervise(sleeper())

    eventually(said(stage, "one is still running", "adopted"))
    assert stage.only_pid("one") == first
    os.kill(first, signal.SIGKILL)
    eventually(lambda: [pid for pid in stage.pids("one") if pid != first], within=10)
    second.stop()
    assert stage.pids("one") == []


@pytest.mark.parametrize("change", ["command", "environment", "code"])
def test_a_survivor_that_is_not_what_would_be_started_now_is_replaced(stage: Stage, change: str) -> None:
    stage.forget(stage.supervise(sleeper()))
    first = stage.only_pid("one")

    now = {
        "command": child("one", "import time; time.sleep(601)"),
        "environment": Child("one", sleeper().command, {"PATH": os.environ["PATH"], "UPBEAT_PORT": "8001"}),
        "code": sleeper(),
    }[change]
    stage.supervise(now, code="newer" if change == "code" else "")

    eventually(lambda: [pid for pid in stage.pids("one") if pid != first] and first not in stage.pids("one"), within=20)


def test_a_survivor_that_hides_its_environment_is_replaced_too(stage: Stage, home: Home) -> None:
    # Valkey writes its title over its environment.
    program = """
        import os
        os.execve("/bin/sleep", ["sleep", "600"], {})
    """
    stage.forget(stage.supervise(child("one", program)))
    record = home.run / "one.json"
    eventually(record.exists)
    first = psutil.Process(json.loads(record.read_text())["pid"])
    eventually(lambda: first.name() == "sleep")

    stage.supervise(child("one", program), code="newer")

    eventually(lambda: not trees.is_alive(first), within=10)
    eventually(lambda: json.loads(record.read_text())["pid"] != first.pid, within=10, ignoring=(OSError,))


def test_a_child_that_does_not_run_our_code_survives_a_change_of_it(stage: Stage) -> None:
    stage.forget(stage.supervise(sleeper(ours=False)))
    first = stage.only_pid("one")

    stage.supervise(sleeper(ours=False), code="newer")

    stays(lambda: stage.pids("one") == [first], during=1)


def test_a_stranger_with_the_recorded_pid_is_not_adopted(stage: Stage, home: Home) -> None:
    stage.forget(stage.supervise(sleeper()))
    first = stage.only_pid("one")
    record = home.run / "one.json"
    eventually(lambda: time.time() - psutil.Process(first).create_time() > 2)  # births are told apart by the second
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        record.write_text(record.read_text().replace(f'"pid": {first}', f'"pid": {stranger.pid}'))
        try:
            stage.supervise(sleeper())
            eventually(lambda: [pid for pid in stage.pids("one") if pid != first], within=10)
            assert stranger.poll() is None
            assert not said(stage, "adopted")()
        finally:
            stranger.kill()


def test_stopping_ends_children_grandchildren_and_those_who_ignore_it(stage: Stage) -> None:
    stubborn = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
        time.sleep(600)
    """
    supervisor = stage.supervise(child("one", stubborn, stop_seconds=1), sleeper("two"))
    eventually(lambda: len(stage.pids("one")) == 4, within=10)

    began = time.monotonic()
    supervisor.stop()

    assert trees.marked(f"{stage.home.path}:") == []
    assert time.monotonic() - began < 10


def test_a_stopped_child_is_ended_too(stage: Stage) -> None:
    supervisor = stage.supervise(sleeper(stop_seconds=5))
    os.kill(stage.only_pid("one"), signal.SIGSTOP)

    supervisor.stop()

    assert stage.pids("one") == []


def test_what_others_need_is_stopped_last(stage: Stage, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    program = f"""
        import signal, sys, time
        def leave(*_):
            time.sleep(float(sys.argv[1]))
            with open({str(witness)!r}, "a") as file:
                file.write(sys.argv[2] + "\\n")
            sys.exit()
        signal.signal(signal.SIGTERM, leave)
        open({str(tmp_path)!r} + "/" + sys.argv[2], "w").close()
        time.sleep(600)
    """
    command = (sys.executable, "-c", textwrap.dedent(program))
    supervisor = stage.supervise(
        Child("broker", (*command, "0", "broker"), last=True), Child("worker", (*command, "0.5", "worker"))
    )
    eventually(lambda: (tmp_path / "broker").exists() and (tmp_path / "worker").exists())

    supervisor.stop()

    assert witness.read_text().split() == ["worker", "broker"]


def test_children_live_in_sessions_of_their_own(stage: Stage) -> None:
    stage.supervise(sleeper())

    pid = stage.only_pid("one")

    assert os.getsid(pid) == pid != os.getsid(0)


def test_a_log_that_grew_too_long_is_cut(stage: Stage, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.embedded.supervisor.LOG_BYTES", 10_000)
    stage.supervise(child("one", "while True: print('x' * 99, flush=True); import time; time.sleep(0.005)"))

    eventually((home.logs / "one.log.1").exists, within=20)

    assert psutil.pid_exists(stage.only_pid("one"))


def test_a_free_port_is_told_from_a_taken_one() -> None:
    from orchestrator.embedded.provider import port_is_free

    port = free_port()

    assert port_is_free("127.0.0.1", port)
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            eventually(lambda: not port_is_free("127.0.0.1", port))
        finally:
            server.kill()
