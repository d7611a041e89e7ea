"""One listener or one role in this process, from its first signal handler to its exit code.

SIGTERM or SIGINT once: the batch in hand is finished and committed, 20 s at most. A second one: the end at once, which is
safe, because what was not acknowledged comes again. A process whose supervisor died ends as if it had been asked to.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from django.db import Error, close_old_connections, connection

from orchestrator.embedded import progress
from triggers.ingest.memory import settle
from triggers.listeners.health import Health
from triggers.listeners.roles import run_role
from triggers.models import EventSource

logger = logging.getLogger(__name__)

#: From the first signal to the end, however the listener fares.
BUDGET_SECONDS: Final = 20.0
#: The same for what a supervisor hosts, so that this one ends within its own.
CHILD_SECONDS: Final = 18.0
#: Between two looks at whether the supervisor lives, or the source has changed.
LOOK_SECONDS: Final = 1.0

#: Exit codes: an orderly end; the end by force or a defect; what going on cannot help.
ENDED: Final = 0
FORCED: Final = 1
HOPELESS: Final = 3

#: Kind of source → the module whose `run` reads it.
LISTENERS: Final[Mapping[str, str]] = {
    "kafka": "triggers.listeners.kafka",
    "rabbitmq": "triggers.listeners.rabbitmq",
}

Run = Callable[..., int]


class Stop(threading.Event):
    """What ends this process: set by the first signal, and by whoever finds that there is nothing left to do."""

    def __init__(self, budget_seconds: float = BUDGET_SECONDS) -> None:
        super().__init__()
        self.budget_seconds = budget_seconds
        self._before_force: Callable[[], None] = lambda: None
        self._signalled = False

    def listen(self) -> None:
        """Take the signals of this process; from the first one on the budget runs."""
        # By a pipe and a thread: a main thread that is inside a library would not run a handler, and an event must not
        # be set by a handler that interrupted a wait for it.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._obey, args=(reading,), name="signals", daemon=True).start()

    def before_force(self, work: Callable[[], None]) -> None:
        """Do this before the process is ended by force."""
        self._before_force = work

    def end(self) -> None:
        """Ask the listener to end, and see to it that it does."""
        if not self.is_set():
            threading.Thread(target=self._insist, name="budget", daemon=True).start()
        self.set()

    def follow(self, parent: int) -> None:
        """End with the process `parent`, which started this one: nobody else would end it."""
        threading.Thread(target=self._follow, args=(parent,), name="parent", daemon=True).start()

    def _obey(self, reading: int) -> None:
        while True:
            for number in os.read(reading, 64):
                # Rules are read anew within a second anyway: a SIGHUP has nothing to do.
                if number not in (signal.SIGTERM, signal.SIGINT):
                    continue
                if self._signalled:
                    self._force()
                self._signalled = True
                self.end()

    def _follow(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        logger.warning("the supervisor is gone, ending")
        self.end()

    def _insist(self) -> None:
        time.sleep(self.budget_seconds)
        logger.error("not ended in %g s, ending by force", self.budget_seconds)
        self._force()

    def _force(self) -> None:
        self._before_force()
        os._exit(FORCED)


def host_source(source: EventSource, *, stop: threading.Event, slot: int = 0) -> int:
    """Read one source until `stop` is set; returns the exit code.

    A listener that fails with an exception is told in its health and logged; who started it decides what follows.
    """
    run: Run = importlib.import_module(LISTENERS[source.kind]).run
    settle()
    health = Health(source.kind, source, slot=slot)
    try:
        code = run(source, stop=stop, health=health)
    except Exception as error:
        logger.exception("a listener failed", extra={"source": source.slug})
        health.beat({}, "failing", f"{type(error).__name__}: {error}")
        return FORCED
    if code == ENDED:
        health.close()
    return code


def host_source_and_follow(source_id: int, *, stop: Stop) -> int:
    """Read one source in this process until `stop` is set; begin anew when its settings change.

    A source that is disabled or deleted meanwhile is waited for.
    """
    while not stop.is_set():
        source = _source(source_id)
        if source is None:
            progress.report()
            stop.wait(2 * LOOK_SECONDS)
            continue
        ended = threading.Event()
        watch = threading.Thread(
            target=_end_on_change, args=(source.pk, source.version, stop, ended), name="changes", daemon=True
        )
        watch.start()
        code = host_source(source, stop=ended)
        changed = ended.is_set() and not stop.is_set()
        ended.set()
        watch.join(timeout=5)
        if not changed:
            return code
    return ENDED


def _end_on_change(source_id: int, version: int, stop: threading.Event, ended: threading.Event) -> None:
    while not stop.wait(LOOK_SECONDS) and not ended.is_set():
        try:
            close_old_connections()
            now = EventSource.objects.filter(pk=source_id, enabled=True).values_list("version", flat=True).first()
        except Error:
            connection.close()
            continue
        if now != version:
            break
    connection.close()
    ended.set()


def _source(source_id: int) -> EventSource | None:
    try:
        close_old_connections()
        return EventSource.objects.select_related("tenant").filter(pk=source_id, enabled=True).first()
    except Error as error:
        logger.warning("database away", extra={"error": str(error).splitlines()[0]})
        connection.close()
        return None


def host_roles(names: Sequence[str], *, stop: threading.Event) -> int:
    """Host roles until `stop` is set, a thread for each; returns the exit code."""
    if len(names) == 1:
        return run_role(names[0], stop=stop, health=Health(names[0]))
    codes: dict[str, int] = {}

    def host(name: str) -> None:
        try:
            codes[name] = run_role(name, stop=stop, health=Health(name, part=name))
        finally:
            connection.close()

    threads = [threading.Thread(target=host, args=(name,), name=name, daemon=True) for name in names]
    for thread in threads:
        thread.start()
    # One that dies of a defect is found by its silence, and the process begins anew.
    stop.wait()
    for thread in threads:
        thread.join()
    return max((codes.get(name, FORCED) for name in names), default=ENDED)


def host_child(what: str, *, stop: Stop, parent: int, slot: int = 0) -> int:
    """Host what the supervisor `parent` asked for, `source:<id>` or `roles:<name>,<name>`; ends when that one does."""
    stop.budget_seconds = CHILD_SECONDS
    stop.follow(parent)
    kind, _, name = what.partition(":")
    if kind == "roles":
        return host_roles(name.split(","), stop=stop)
    while not stop.is_set():
        source = _source(int(name))
        if source is not None:
            return host_source(source, stop=stop, slot=slot)
        progress.report()
        stop.wait(LOOK_SECONDS)
    return ENDED
