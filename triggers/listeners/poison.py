"""A message that kills its reader: found by marks that outlive a death, proven in a throw-away child process.

The death of a listener proves nothing: the system's memory may have run out, or somebody ended it. So it only makes
suspicious what it may have been reading; what then kills a child of its own twice, alone, is poison.

A listener's part in it:

    marks = Marks(source.pk)
    suspicious = marks.begin(parts)       # where reading of these parts begins
    child = ProofChild(source.pk)         # while anything is suspicious: each message of it, one at a time
    if why := child.prove(received):
        pipeline.write(condemned(received, tenant_id, why))     # a dead letter `crash_loop`
    marks.proven(part)                    # the backlog of the moment of `begin` is passed
    marks.progress()                      # once a round of the loop
    marks.end(parts)                      # revoked, or the end of the process
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from functools import cache
from multiprocessing.connection import Connection
from typing import Final

import psutil
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from triggers.envelope import Problem, Received
from triggers.ingest.batch import Item, Prepared
from triggers.listeners import proof
from triggers.models import UncleanExit

logger = logging.getLogger(__name__)

#: Seconds of progress after which what was read at the start is no suspect any more.
PROGRESS_SECONDS: Final = 60.0
#: Deaths of a child on the same bytes that prove poison.
DEATHS: Final = 2
#: Deaths of a child on one message that prove nothing, until the caller shall wait.
ACCIDENTS: Final = 5
#: Seconds of the clock for a message that does not even use the processor; of the processor's time it has fewer.
HANGING_SECONDS: Final = 15.0
START_SECONDS: Final = 60.0
#: What ends a process from outside. The system's out-of-memory killer sends SIGKILL; our own limit does not.
_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


class ProofUnavailable(Exception):
    """No child could judge the message just now, which says nothing about the message: wait and try again."""


@cache
def this_process() -> str:
    """Name this process so that no later one has the same name, not even process 1 of a container that came back."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def mark(source_id: int, parts: Collection[str], instance: str) -> None:
    """Write that `instance` begins to read these parts. Safe to call twice."""
    now = timezone.now()
    UncleanExit.objects.bulk_create(
        [UncleanExit(source_id=source_id, part=part, instance=instance, marked_at=now) for part in sorted(parts)],
        ignore_conflicts=True,
    )


def clear(source_id: int, parts: Collection[str], instance: str) -> None:
    """Remove the marks of `instance`. Safe to call twice."""
    UncleanExit.objects.filter(source_id=source_id, part__in=parts, instance=instance).delete()


def unclean(source_id: int, parts: Collection[str]) -> dict[str, set[int]]:
    """Return part → the marks of readers that are dead, as far as can be told from here.

    A reader on another host counts as dead: that costs time, the opposite would cost a crash.
    """
    found: dict[str, set[int]] = {}
    marks = UncleanExit.objects.filter(source_id=source_id, part__in=parts).values_list("pk", "part", "instance")
    for pk, part, instance in marks:
        if not _lives(instance):
            found.setdefault(part, set()).add(pk)
    return found


def _lives(instance: str) -> bool:
    host, _, rest = instance.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname():
        return False
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(int(rest))
        gone = process.status() == psutil.STATUS_ZOMBIE
        return not gone and f"{process.create_time():.2f}" == instance.rpartition(":")[2]
    return False


class Marks:
    """The marks of one listener process for one source."""

    def __init__(self, source_id: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.source_id = source_id
        self.instance = this_process()
        self._clock = clock
        #: Part → when its mark was written, while it stands.
        self._since: dict[str, float] = {}
        self._suspects: dict[str, set[int]] = {}

    @property
    def suspicious(self) -> Collection[str]:
        """The parts whose messages must be proven."""
        return self._suspects.keys()

    def begin(self, parts: Collection[str]) -> set[str]:
        """Mark the parts; return those that a reader left by dying. Raises DatabaseError: nothing may be read then."""
        suspects = unclean(self.source_id, parts)
        mark(self.source_id, parts, self.instance)
        self._since |= dict.fromkeys(parts, self._clock())
        self._suspects |= suspects
        return set(suspects)

    def proven(self, part: str) -> None:
        """Forget those who died on a part: all that they may have read has been proven. Safe to call twice.

        Marks that were written since stay. A database that is away keeps the part suspicious.
        """
        with _tolerant("proven"):
            UncleanExit.objects.filter(pk__in=self._suspects.get(part, ())).delete()
            self._suspects.pop(part, None)
            # What this process itself read until now is proven, what follows must show progress.
            self._since[part] = self._clock()

    def progress(self) -> None:
        """Remove the marks of parts that have been read for a minute. To be called by each round that is not held."""
        due = [part for part, since in self._since.items() if self._clock() - since >= PROGRESS_SECONDS]
        due = [part for part in due if part not in self._suspects]
        if due:
            self._remove(due)

    def end(self, parts: Collection[str] | None = None) -> None:
        """Remove the marks of parts, default all, that are left in order."""
        self._remove(list(self._since if parts is None else parts))
        for part in list(self._suspects if parts is None else parts):
            self._suspects.pop(part, None)

    def _remove(self, parts: list[str]) -> None:
        with _tolerant("removed"):
            clear(self.source_id, parts, self.instance)
            for part in parts:
                self._since.pop(part, None)


@contextlib.contextmanager
def _tolerant(what: str):  # type: ignore[no-untyped-def]  # a context manager's own type says no more
    """A mark that stays too long costs time only."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        logger.warning("marks could not be %s", what, extra={"reason": str(error).strip()})


def condemned(received: Received, tenant_id: int, why: str) -> Prepared:
    """Return a proven poison as a batch of one dead letter, ready to be written."""
    letter = Item(received, tenant_id, 0)
    letter.problem = Problem("crash_loop", why)
    return Prepared([letter], 1)


class ProofChild:
    """Decodes and matches one message at a time in a process that may die of it.

    The child is started with the first message and again after each death. Not safe between threads.
    """

    def __init__(self, source_id: int) -> None:
        self.source_id = source_id
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def prove(self, received: Received, *, idle: Callable[[], None] = lambda: None) -> str | None:
        """Return why the message is poison, or None if it is not.

        Poison: a child died of it, or used more processor time or memory than it may, twice. `idle` is called at least
        once a second while this waits, and must not raise. Raises ProofUnavailable.
        """
        message = pickle.dumps(received, protocol=pickle.HIGHEST_PROTOCOL)
        accidents, deaths = 0, 0
        while True:
            cause, evidence = self._attempt(message, idle)
            if cause is None:
                return None
            logger.warning("a child died of a message", extra={"reason": cause, "evidence": evidence})
            if evidence:
                deaths += 1
                if deaths == DEATHS:
                    return f"A process of its own that reads only this message {cause}, {DEATHS} times."
            else:
                accidents += 1
                if accidents == ACCIDENTS:
                    raise ProofUnavailable(f"the child that proves messages {cause}, {ACCIDENTS} times")

    def close(self) -> None:
        """End the child. Safe to call twice; the next message starts another."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _attempt(self, message: bytes, idle: Callable[[], None]) -> tuple[str | None, bool]:
        """Give the message to the child: None if it came through, else how the child ended and whether of the message."""
        pipe = self._started(idle)
        reading = False
        try:
            pipe.send_bytes(message)
            deadline = time.monotonic() + HANGING_SECONDS
            while True:
                if not self._readable(pipe, deadline, idle):
                    stopped = self._is_stopped()
                    self.close()
                    return "did not come to an end", reading and not stopped
                answer = pipe.recv_bytes()
                if answer == proof.READING:
                    reading = True
                elif answer == proof.DONE:
                    return None, False
                else:
                    raise ProofUnavailable(answer.decode(errors="replace"))
        except (EOFError, OSError):
            return self._how_it_ended(reading=reading)

    def _started(self, idle: Callable[[], None]) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", proof.__name__, str(self.source_id), str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._pipe = Connection(ours.detach())
        try:
            if self._readable(self._pipe, time.monotonic() + START_SECONDS, idle):
                answer = self._pipe.recv_bytes()
                if answer == proof.READY:
                    return self._pipe
                raise ProofUnavailable(answer.decode(errors="replace"))
            raise ProofUnavailable("the child that proves messages did not start in time")
        except (EOFError, OSError):
            raise ProofUnavailable("the child that proves messages did not start") from None
        except ProofUnavailable:
            self.close()
            raise

    def _readable(self, pipe: Connection, deadline: float, idle: Callable[[], None]) -> bool:
        while (left := deadline - time.monotonic()) > 0:
            if pipe.poll(min(left, 0.5)):
                return True
            idle()
        return False

    def _is_stopped(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        return False

    def _how_it_ended(self, *, reading: bool) -> tuple[str, bool]:
        assert self._process is not None
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self.close()
        if code == proof.OUT_OF_MEMORY:
            return f"needs more than {proof.MEMORY_BYTES >> 20} MiB", reading
        if code == -signal.SIGPROF:
            return f"needs more than {proof.CPU_SECONDS:g} s", reading
        if code < 0:
            return f"dies by {signal.Signals(-code).name}", reading and -code not in _FROM_OUTSIDE
        return f"ends with exit code {code}", reading
