"""Runs a command for an attempt: starts the runner, moves the output, says how it ended.

The runner (`runner.py`) guarantees the end of the tree; this side only asks. It works from prefork children and
from threads alike: no `preexec_fn`, no signal handlers, no state shared between attempts.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from workers.executors.base import StopSignal
from workers.runtime.leftovers import MARKER, end_marked

#: Imported rather than run as a script, so that its compiled form is used: compiling takes 3 ms of each attempt. At
#: the end of the path, so that our neighbouring modules never stand before the standard library's.
RUNNER = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); from runner import main; main()"
#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: Seconds that a runner may be silent after the tree should be gone before it counts as dead.
RUNNER_PATIENCE = 20.0
PIPE_BYTES = 256 * 1024


class Cause(StrEnum):
    """Why a command is no longer running."""

    ENDED = "ended"  # by itself
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    NOT_STARTED = "not_started"  # `problem` says why; trying again cannot help
    REFUSED = "refused"  # the system had no process or memory for it just now
    CROWDED = "crowded"  # it had more processes than it may
    RUNNER_LOST = "runner_lost"  # someone killed the runner: nobody saw how the command ended


@dataclass(frozen=True, slots=True)
class Limits:
    """What each process of the command may use, and how many there may be; None is no limit of ours."""

    memory: int | None = None
    cpu_seconds: int | None = None
    file_size: int | None = None
    open_files: int | None = None
    #: In the whole tree. Counted by the runner: RLIMIT_NPROC counts all that the user runs, and never refuses root.
    processes: int | None = None

    def as_requests(self) -> list[tuple[int, int, int]]:
        requests = [(resource.RLIMIT_CORE, 0, 0)]  # a core dump would hold the command's secrets
        if self.open_files is not None:
            requests.append((resource.RLIMIT_NOFILE, self.open_files, 0))
        if self.file_size is not None:
            requests.append((resource.RLIMIT_FSIZE, self.file_size, 0))
        if self.cpu_seconds is not None:
            # SIGXCPU at the limit, SIGKILL five seconds of CPU later.
            requests.append((resource.RLIMIT_CPU, self.cpu_seconds, 5))
        if self.memory is not None:
            requests.append((resource.RLIMIT_AS, self.memory, 0))
        return requests


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended. Exactly one of `exit_code` and `signal` is given if it ran."""

    cause: Cause
    exit_code: int | None = None
    signal: int | None = None
    problem: str = ""
    #: Processes that it left running and that were ended, and those that could not be.
    leftovers: int = 0
    survivors: int = 0
    cpu_seconds: float = 0.0
    peak_memory: int = 0


def run_tree(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    remove: Path | None,
    limits: Limits,
    timeout: float,
    stop: StopSignal,
    on_output: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None] | None = None,
    grace: float = GRACE,
) -> Ending:
    """Run a command to its end and return how it ended; afterwards nothing of its tree is alive.

    `on_output` gets what it writes, as it is written; standard error goes there too, in exact order, unless
    `on_stderr` takes it. `remove` is a directory that goes away if this process dies before it can remove it.
    """
    if stop.requested:
        return Ending(Cause.STOPPED)
    if timeout <= 0:
        return Ending(Cause.TIMEOUT)
    marker = uuid.uuid4().hex
    request = marshal.dumps(
        {
            "argv": [os.fsencode(part) for part in argv],
            "environment": {os.fsencode(k): os.fsencode(v) for k, v in {**environment, MARKER: marker}.items()},
            "cwd": os.fsencode(cwd),
            "limits": limits.as_requests(),
            "processes": limits.processes or 0,
            "timeout": timeout,
            "grace": grace,
            "worker": os.getpid(),
            "remove": os.fsencode(remove) if remove else b"",
        }
    )
    pipes = _Pipes(on_output, on_stderr)
    try:
        try:
            runner, channel = _start_runner(pipes, marker)
        except OSError as error:
            return Ending(Cause.REFUSED, problem=f"no process could be started: {error.strerror}")
        try:
            with _Channel(channel) as line:
                line.send(len(request).to_bytes(4, "big") + request)
                stop.on_request(line.ask_to_stop)
                report = line.follow(pipes, patience=_Patience(timeout, grace, stop))
        except BaseException:
            # The socket is closed, so the runner ends the tree; the directory must not go before the processes in it.
            with suppress(subprocess.TimeoutExpired):
                runner.wait(grace + RUNNER_PATIENCE)
            raise
        if report is None:
            with suppress(ProcessLookupError):
                runner.kill()
            runner.wait()
            swept = end_marked(marker, session=line.command)
            pipes.drain()
            return Ending(Cause.RUNNER_LOST, survivors=swept.survivors)
        # Nothing of the tree lives: what the pipes still hold is all that there will be.
        pipes.drain()
        runner.wait()
        return _ending(report, limits)
    finally:
        pipes.close()


class _Pipes:
    """The command's output, read into memory one piece at a time."""

    def __init__(self, on_output: Callable[[bytes], None], on_stderr: Callable[[bytes], None] | None) -> None:
        self.readers: dict[int, Callable[[bytes], None]] = {}
        out, self.stdout = _pipe()
        self.readers[out] = on_output
        self.stderr = self.stdout
        if on_stderr is not None:
            err, self.stderr = _pipe()
            self.readers[err] = on_stderr

    def close_writers(self) -> None:
        for fd in {self.stdout, self.stderr} - {-1}:
            os.close(fd)
        self.stdout = self.stderr = -1

    def read(self, fd: int) -> bool:
        """Move one piece; return whether there may be more."""
        try:
            piece = os.read(fd, PIPE_BYTES)
        except BlockingIOError:
            return False
        if piece:
            self.readers[fd](piece)
            return True
        os.close(fd)
        del self.readers[fd]
        return False

    def drain(self) -> None:
        for fd in list(self.readers):
            # Bounded, for a process that survived even SIGKILL could write for ever.
            for _ in range(64):
                if not self.read(fd):
                    break

    def close(self) -> None:
        self.close_writers()
        for fd in self.readers:
            os.close(fd)
        self.readers.clear()


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    # Fewer, larger reads; refused beyond a user's quota of pipe memory, then the usual 64 KiB do.
    with suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


class _Patience:
    """When a silent runner counts as dead."""

    def __init__(self, timeout: float, grace: float, stop: StopSignal) -> None:
        self._stop = stop
        self._after = grace + RUNNER_PATIENCE
        self._limit = time.monotonic() + timeout + self._after
        self._stopped_at: float | None = None

    def left(self) -> float:
        now = time.monotonic()
        if self._stop.requested and self._stopped_at is None:
            self._stopped_at = now
            self._limit = min(self._limit, now + self._after)
        return self._limit - now


class _Channel:
    """The socket to the runner. Asking to stop comes from another thread and may come after the end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._open = True
        self.command = 0

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open = False
            self._channel.close()

    def send(self, data: bytes) -> None:
        # A runner that died shows at the first read.
        with suppress(OSError):
            self._channel.sendall(data)

    def ask_to_stop(self) -> None:
        with self._lock:
            if self._open:
                self.send(b"s")

    def follow(self, pipes: _Pipes, *, patience: _Patience) -> dict[str, Any] | None:
        """Move output until the runner reports; None if it died without a report."""
        answer = bytearray()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        for fd in pipes.readers:
            poll.register(fd, select.POLLIN)
        while (left := patience.left()) > 0:
            # At most a second: `patience` must see a stop whose byte went to a runner that no longer reads.
            for fd, _ in poll.poll(min(left, 1.0) * 1000):
                if fd != self._channel.fileno():
                    if not pipes.read(fd) and fd not in pipes.readers:
                        poll.unregister(fd)
                    continue
                try:
                    piece = self._channel.recv(65536)
                except ConnectionError:
                    piece = b""
                answer += piece
                self.command = int.from_bytes(answer[:4], "big")
                if not piece:
                    return _report(bytes(answer[4:]))
        return None


def _report(data: bytes) -> dict[str, Any] | None:
    try:
        report = marshal.loads(data)
    except (EOFError, ValueError, TypeError):
        return None
    return report if isinstance(report, dict) else None


def _start_runner(pipes: _Pipes, marker: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    try:
        runner = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-c", RUNNER],
            stdin=theirs.fileno(),
            stdout=pipes.stdout,
            stderr=pipes.stderr,
            # The command can read its parent's environment: nothing of the worker's may stand there.
            env={MARKER: marker},
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        pipes.close_writers()
    return runner, ours


def _ending(report: Mapping[str, Any], limits: Limits) -> Ending:
    if report["failed"]:
        return _not_started(report["failed"], report["errno"])
    code = None if report["status"] is None else os.waitstatus_to_exitcode(report["status"])
    causes = {"": Cause.ENDED, "timeout": Cause.TIMEOUT, "stopped": Cause.STOPPED, "crowded": Cause.CROWDED}
    cause = causes.get(report["cause"], Cause.RUNNER_LOST)
    return Ending(
        cause,
        problem=f"more than {limits.processes} processes at once" if cause is Cause.CROWDED else "",
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        leftovers=report["left"],
        survivors=report["survivors"],
        cpu_seconds=report["cpu"],
        peak_memory=report["rss"],
    )


def _not_started(step: str, number: int) -> Ending:
    words = os.strerror(number)
    if step in ("fork", "start"):
        return Ending(Cause.REFUSED, problem=f"no process could be started: {words}")
    return Ending(Cause.NOT_STARTED, problem=f"{step}: {words}")
