"""Keeps the processes of the embedded profile running, and ends them all.

Each child lives in a session of its own, so that Ctrl-C in the terminal is one signal, to the supervisor. A child is
started again when it ends, when it stops answering and when it makes no progress; what is left of its tree is ended
first. A supervisor that was killed leaves its children running: the next one adopts those whose command, environment
and code are the same, and replaces the others.

One thread watches each child; they share nothing but the wish to stop.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.embedded import trees
from orchestrator.embedded.home import Home

TICK_SECONDS = 0.25
PROBE_SECONDS = 5.0
#: Restarts follow one another after 0.5 s, 1 s, 2 s … 30 s; a minute of health starts the count anew.
FIRST_DELAY, LAST_DELAY, HEALTHY_SECONDS = 0.5, 30.0, 60.0
LOG_BYTES = 20 * 2**20
#: Variables that make a running child another one; a terminal adds many that do not.
DECISIVE = ("UPBEAT_", "FLOWER_", "DJANGO_", "PYTHONPATH", "TZ")


def always() -> bool:
    return True


def nothing_waits() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Child:
    """One supervised process: how it is started and how its health is told."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Answers when asked. None: nothing to ask.
    answers: Callable[[], bool] | None = None
    #: It reports through UPBEAT_PROGRESS_FILE (`progress.py`).
    reports: bool = False
    #: Its health is judged only while this holds: a worker without its broker cannot do better than wait.
    judged_while: Callable[[], bool] = always
    #: Messages that wait for it; with a free slot and nothing accepted, it is stuck.
    backlog: Callable[[], int] = nothing_waits
    start_seconds: float = 60.0
    stale_seconds: float = 30.0
    #: More than the workers' soft time-out of 8 s; all endings together have 20 s.
    stop_seconds: float = 10.0
    #: It runs our code: a survivor of older code is replaced.
    ours: bool = True
    #: Stopped after all the others: they need it to end well.
    last: bool = False


class Supervisor:
    """Starts or adopts children, watches them until `stop` is called, then ends them."""

    def __init__(self, home: Home, children: Sequence[Child], *, say: Callable[[str], None], code: str = "") -> None:
        self._stopping = threading.Event()
        self._watches = [Watch(home, child, self._stopping, say, code) for child in children]
        self._home, self._say = home, say

    def start(self, *names: str) -> None:
        """Start or adopt the named children, or all that do not run yet."""
        for watch in self._watches:
            if not names or watch.child.name in names:
                watch.begin()

    def survivors(self) -> list[str]:
        """Return the names of the children that would be adopted."""
        return [watch.child.name for watch in self._watches if watch.find_survivor() is not None]

    def waiting_for(self) -> list[str]:
        """Return the names of the children that were not healthy yet since they began."""
        return [watch.child.name for watch in self._watches if not watch.ready.is_set()]

    def stop(self) -> None:
        """End every child and all below it; at most about 16 s. Safe to call twice."""
        self._stopping.set()
        for last in (False, True):
            endings = [
                threading.Thread(target=watch.end, name=f"end {watch.child.name}")
                for watch in self._watches
                if watch.child.last is last
            ]
            for ending in endings:
                ending.start()
            for ending in endings:
                ending.join()
        trees.kill_marked(f"{self._home.path}:")


class Watch:
    """One child and the thread that looks after it."""

    def __init__(
        self, home: Home, child: Child, stopping: threading.Event, say: Callable[[str], None], code: str
    ) -> None:
        self.child = child
        self.ready = threading.Event()
        self._stopping, self._say = stopping, say
        self._mark = f"{home.path}:{child.name}"
        self._log = home.logs / f"{child.name}.log"
        self._record = home.run / f"{child.name}.json"
        self._beat = home.run / f"{child.name}.beat"
        self._environ = {
            **child.environ,
            trees.MARK: self._mark,
            **({"UPBEAT_PROGRESS_FILE": str(self._beat)} if child.reports else {}),
        }
        decisive = {key: value for key, value in self._environ.items() if key.startswith(DECISIVE)}
        what = json.dumps([child.command, sorted(decisive.items()), code if child.ours else ""])
        self._fingerprint = hashlib.sha256(what.encode()).hexdigest()
        self._lock = threading.Lock()  # starting and ending exclude one another
        self._thread: threading.Thread | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._health = Health(child, self._beat)

    # --- life

    def begin(self) -> None:
        """Adopt the survivor or start the child, and watch it; nothing if it is being watched."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._watch, name=f"watch {self.child.name}", daemon=True)
        self._thread.start()

    def find_survivor(self) -> psutil.Process | None:
        """Return the living process of an earlier supervisor, if it is what we would start now."""
        process, fingerprint = self._recorded()
        return process if fingerprint == self._fingerprint else None

    def _recorded(self) -> tuple[psutil.Process | None, str]:
        try:
            record = json.loads(self._record.read_text())
            process = psutil.Process(record["pid"])
            # A pid is soon somebody else's; a pid with its moment of birth is not.
            same = abs(process.create_time() - record["born"]) < 1
            return (process, record["fingerprint"]) if same and trees.is_alive(process) else (None, "")
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None, ""

    def _adopt_or_start(self) -> None:
        process, fingerprint = self._recorded()
        if process is not None and fingerprint == self._fingerprint:
            with self._lock:
                self._process = process
            self._health.begin(adopted=True)
            self._say(f"{self.child.name} is still running (pid {process.pid}), adopted")
            return
        if process is not None:
            self._say(f"{self.child.name} still runs other code or settings (pid {process.pid}), replacing it")
            with self._lock:
                self._process = process
            self.end()
        # What a killed supervisor's children left behind.
        trees.kill_marked(self._mark)
        self._start()

    def end(self) -> None:
        """Ask with SIGTERM, insist with SIGKILL, and leave nothing below it."""
        with self._lock:
            process = self._process
            if process is None:
                return
            below = trees.tree(process)
            with contextlib.suppress(psutil.Error):
                process.resume()  # a stopped process would never see the signal
                process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + self.child.stop_seconds
            while self._ended() is None and time.monotonic() < deadline:
                below = _joined(below, trees.tree(process))
                time.sleep(0.1)
            trees.kill(_joined(below, trees.marked(self._mark)))
            self._ended()  # reaps it
            self._process = None
            self._record.unlink(missing_ok=True)

    def _start(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            for beat in self._health.beats():
                beat.unlink(missing_ok=True)
            with self._log.open("ab") as log:
                self._popen = subprocess.Popen(
                    self.child.command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._health.begin()
            try:
                self._process = psutil.Process(self._popen.pid)
                born = self._process.create_time()
            except psutil.Error:  # it ended at once; the watch will see
                return
            record = {"pid": self._popen.pid, "born": born, "fingerprint": self._fingerprint}
            draft = self._record.with_suffix(".draft")
            draft.write_text(json.dumps(record))
            draft.replace(self._record)

    def _watch(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._adopt_or_start()
                    begun = True
                self._look_after()
            except Exception as error:  # a full disk, no more processes: the watch itself must not be what dies
                self._say(f"watching {self.child.name} failed ({error!r}); going on")
                self._stopping.wait(PROBE_SECONDS)

    def _look_after(self) -> None:
        delay, next_probe = FIRST_DELAY, 0.0
        while not self._stopping.wait(TICK_SECONDS):
            trouble = self._ended()
            if trouble is None and time.monotonic() >= next_probe:
                trouble = self._health.trouble()
                if self._health.good:
                    self.ready.set()
                pause = min(PROBE_SECONDS, self.child.stale_seconds / 4)
                next_probe = time.monotonic() + (pause if self.ready.is_set() else TICK_SECONDS)
                self._bound_log()
            if trouble is None:
                continue
            if self._health.age() > HEALTHY_SECONDS:
                delay = FIRST_DELAY
            self._say(f"{self.child.name} {trouble}; starting it again in {delay:g} s (log: {self._log})")
            self._clear_away()
            if self._stopping.wait(delay):
                return
            delay, next_probe = min(delay * 2, LAST_DELAY), 0.0
            self._start()

    def _ended(self) -> str | None:
        """Say how the child ended; None while it lives."""
        if self._popen is not None:
            code = self._popen.poll()
            if code is None:
                return None
            return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if self._process is not None and trees.is_alive(self._process):
            return None
        return "is gone"

    def _clear_away(self) -> None:
        """End what is left of the child at once: its outcome is fenced off, and it may hold what the next one needs."""
        with self._lock:
            below = trees.tree(self._process) if self._process is not None else []
            trees.kill(_joined(below, trees.marked(self._mark)))
            self._ended()
            self._process = None

    def _bound_log(self) -> None:
        # The child writes with O_APPEND: after the cut it goes on at the new end.
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
                os.truncate(self._log, 0)


class Health:
    """Whether a living child does its work, judged from outside. Knows only the monotonic clock: a corrected wall
    clock must not look like a minute of silence."""

    def __init__(self, child: Child, beat: Path) -> None:
        self._child, self._beat = child, beat
        self._looked = 0.0
        self.begin()

    def begin(self, *, adopted: bool = False) -> None:
        """Count from now: the child was started, or adopted with whatever it reported before."""
        self.good = False
        self._began = time.monotonic()
        self._excuse(self._began)
        #: Progress file → its last modification, and when that was first seen.
        self._seen = {beat: (_modified(beat), self._began) for beat in self.beats()} if adopted else {}

    def age(self) -> float:
        return time.monotonic() - self._began

    def beats(self) -> list[Path]:
        """Return the progress files of the child, one for each part that reports."""
        return sorted(self._beat.parent.glob(f"{self._beat.name}*"))

    def trouble(self) -> str | None:
        """Return what is wrong with a child that lives, or None; sets `good` once it has shown that it works."""
        now = time.monotonic()
        if now - self._looked > self._child.stale_seconds / 2 or not self._child.judged_while():
            # We ourselves stood still (the machine slept), or the child lacks what it needs.
            self._excuse(now)
        self._looked = now
        return self._silence(now) or self._standstill(now) or self._starvation(now)

    def _excuse(self, now: float) -> None:
        """Count every silence from now."""
        self._looked = self._excused = self._answered = self._accepted_at = now
        self._accepted: int | None = None

    @property
    def _patience(self) -> float:
        return self._child.stale_seconds if self.good else self._child.start_seconds

    def _silence(self, now: float) -> str | None:
        if self._child.answers is None or self._child.answers():
            self._answered = now
            self.good = self.good or not self._child.reports
            return None
        silent = now - self._answered
        return f"has not answered for {silent:.0f} s" if silent > self._patience else None

    def _standstill(self, now: float) -> str | None:
        if not self._child.reports:
            return None
        for beat in self.beats():
            modified = _modified(beat)
            if self._seen.get(beat, (None, 0.0))[0] != modified:
                self._seen[beat] = (modified, now)
                self.good = True
        if not self.good:
            waited = now - self._excused
            return f"reported no progress for {waited:.0f} s" if waited > self._child.start_seconds else None
        for beat, (_, seen) in self._seen.items():
            still = now - max(seen, self._excused)
            if still > self._child.stale_seconds:
                part = beat.name.removeprefix(self._beat.name).strip(".")
                return f"has made no progress{f' ({part})' if part else ''} for {still:.0f} s"
        return None

    def _starvation(self, now: float) -> str | None:
        try:
            facts = json.loads(self._beat.read_text())
            accepted, free = facts["accepted"], facts["free"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if accepted != self._accepted or not free or not self._child.backlog():
            self._accepted, self._accepted_at = accepted, now
            return None
        hungry = now - self._accepted_at
        if hungry <= self._child.stale_seconds:
            return None
        return f"has accepted none of the waiting messages for {hungry:.0f} s"


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _joined(*groups: Sequence[psutil.Process]) -> list[psutil.Process]:
    return list(dict.fromkeys(process for group in groups for process in group))
