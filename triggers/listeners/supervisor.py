"""Keeps a process for each listener and role, starts those that die or stand still anew, and ends them all.

What there shall be is read from the database every two seconds: a source that is added, changed or disabled is followed
within seconds. Sources in different processes cannot starve one another, and one that crashes takes none with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import Error, close_old_connections, connection
from django.db.models.functions import Now

from orchestrator.embedded import progress
from triggers.listeners.health import SILENT_SECONDS, Health
from triggers.listeners.hosting import BUDGET_SECONDS, CHILD_SECONDS, FORCED, LISTENERS
from triggers.models import EventSource, Listener

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.2
#: Between two looks at the sources.
LOOK_SECONDS: Final = 2.0
#: Restarts follow one another after 0.5 s, 1 s, 2 s … 30 s; a minute of life starts the count anew.
FIRST_DELAY, LAST_DELAY, HEALTHY_SECONDS = 0.5, 30.0, 60.0
#: So many deaths in a row are told as a failure, with the last exit code.
CRASH_LOOP: Final = 4
#: A new process has this long until its first report.
START_SECONDS: Final = 90.0
#: Rows of listeners that said nothing for so long are removed: their processes are gone, whatever killed them.
FORGET_AFTER: Final = timedelta(minutes=10)
FORGET_EVERY: Final = 60.0
#: All endings together; each child has its own budget, which ends before.
STOP_SECONDS: Final = (CHILD_SECONDS + BUDGET_SECONDS) / 2
#: What an ending child may leave: nothing, an orderly end, or the signal that met it before it listened.
ENDED_WELL: Final = (None, 0, -signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Part:
    """A process that there shall be."""

    #: `source:<id>:<slot>` or `roles:<names>`: two with the same name and version are the same.
    name: str
    label: str
    arguments: tuple[str, ...]
    version: int = 0
    source_id: int | None = None
    kind: str = ""


def parts_wanted(source_ids: Collection[int] | None, roles: Iterable[str]) -> list[Part]:
    """Return the processes of the enabled sources (None: of all that are listened to), and the one of the roles."""
    sources = EventSource.objects.filter(enabled=True, kind__in=LISTENERS).order_by("pk")
    if source_ids is not None:
        sources = sources.filter(pk__in=source_ids)
    parts = [
        Part(
            f"source:{source.pk}:{slot}",
            source.slug + (f" {slot + 1}" if slot else ""),
            ("--child", f"source:{source.pk}", "--slot", str(slot)),
            source.version,
            source.pk,
            source.kind,
        )
        for source in sources
        for slot in range(processes_of(source))
    ]
    if names := ",".join(roles):
        parts.append(Part(f"roles:{names}", f"roles {names}", ("--child", f"roles:{names}"), kind="roles"))
    return parts


def processes_of(source: EventSource) -> int:
    """Return how many processes read a source. On RabbitMQ each reads one queue, by its slot."""
    each = max(1, int(source.config.get("processes") or 1))
    return each * max(1, len(source.config.get("queues") or ())) if source.kind == "rabbitmq" else each


class Supervisor:
    """The processes of one `run_triggers`. For one thread; `stop` may be set by any."""

    def __init__(
        self,
        wanted: Callable[[], list[Part]],
        *,
        stop: threading.Event,
        command: tuple[str, ...] = (),
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._wanted, self._stop, self._silent_seconds = wanted, stop, silent_seconds
        self._command = command or (
            *(sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), "run_triggers"),
            *("--parent", str(os.getpid())),
        )
        self._hosted: dict[str, Hosted] = {}
        self._next_look = self._next_sweep = 0.0
        self._ticked_at = time.monotonic()

    def run(self) -> int:
        """Keep the processes until `stop` is set; returns the exit code."""
        with tempfile.TemporaryDirectory(prefix="upbeat-triggers-", ignore_cleanup_errors=True) as directory:
            try:
                while not self._stop.is_set():
                    self._tick(Path(directory))
                    self._stop.wait(TICK_SECONDS)
            finally:
                code = self._end_all()
        return code

    def kill_all(self) -> None:
        """SIGKILL to every process and all below it, at once. From a signal handler, too."""
        for hosted in list(self._hosted.values()):
            hosted.kill()

    def _tick(self, directory: Path) -> None:
        now = time.monotonic()
        if now - self._ticked_at > self._silent_seconds / 2:
            # We ourselves stood still (the machine slept): no child can be blamed for that time.
            for hosted in self._hosted.values():
                hosted.excuse(now)
        self._ticked_at = now
        progress.report()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look(directory)
        if now >= self._next_sweep:
            self._next_sweep = now + FORGET_EVERY
            forget_dead()
        for name, hosted in list(self._hosted.items()):
            hosted.look_after(now)
            if hosted.unwanted and not hosted.lives:
                hosted.close()
                del self._hosted[name]

    def _look(self, directory: Path) -> None:
        try:
            close_old_connections()
            wanted = {part.name: part for part in self._wanted()}
        except Error as error:
            logger.warning("sources not read", extra={"error": str(error).splitlines()[0]})
            connection.close()
            return
        for name, hosted in self._hosted.items():
            if wanted.get(name) != hosted.part:
                hosted.retire()
        for name, part in wanted.items():
            if name not in self._hosted:
                beat = directory / f"{len(self._hosted)}-{part.source_id or 'roles'}-{time.monotonic_ns()}"
                self._hosted[name] = Hosted(part, (*self._command, *part.arguments), beat, self._silent_seconds)

    def _end_all(self) -> int:
        for hosted in self._hosted.values():
            hosted.retire()
        deadline = time.monotonic() + STOP_SECONDS
        while any(hosted.lives for hosted in self._hosted.values()) and time.monotonic() < deadline:
            progress.report()
            time.sleep(0.05)
        forced = [hosted for hosted in self._hosted.values() if hosted.lives]
        self.kill_all()
        codes = [hosted.close() for hosted in self._hosted.values()]
        return FORCED if forced or any(code not in ENDED_WELL for code in codes) else 0


class Hosted:
    """One process, and what is known of it."""

    def __init__(self, part: Part, command: tuple[str, ...], beat: Path, silent_seconds: float) -> None:
        self.part = part
        #: It shall end, and none shall follow.
        self.unwanted = False
        self._command, self._beat, self._silent_seconds = command, beat, silent_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._start_at = self._excused = 0.0
        self._delay = FIRST_DELAY
        self._deaths = 0
        #: Progress file → its last modification, and when that was seen.
        self._seen: dict[Path, tuple[float, float]] = {}
        self._kill_at: float | None = None
        self._trouble: Health | None = None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def look_after(self, now: float) -> None:
        """Start it if it is time, kill it if it stands still, note its death."""
        if self._process is None:
            if not self.unwanted and now >= self._start_at:
                self._start(now)
            return
        code = self._process.poll()
        if code is not None:
            self._died(code, now)
        elif self.unwanted:
            if self._kill_at is not None and now >= self._kill_at:
                self.kill()
        elif (silent := self._silence(now)) is not None:
            logger.error("%s: no progress for %.0f s, killed", self.part.label, silent)
            self.kill()
        elif self._trouble is not None and now - self._began > HEALTHY_SECONDS:
            self._trouble.close()
            self._trouble = None

    def retire(self) -> None:
        """Ask it to end; insist when its budget is over. Safe to call twice."""
        if self.unwanted:
            return
        self.unwanted = True
        if self._process is not None and self.lives:
            self._kill_at = time.monotonic() + STOP_SECONDS
            with contextlib.suppress(ProcessLookupError):
                # A stopped process would never see the request.
                os.killpg(self._process.pid, signal.SIGCONT)
                self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and to what it started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def excuse(self, now: float) -> None:
        """Count its silence from now."""
        self._excused = now

    def close(self) -> int | None:
        """Reap it and leave nothing behind; returns its exit code, None if it did not run."""
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=3)
            self._sweep()
        self._forget_beats()
        if self._trouble is not None:
            self._trouble.close()
        return code

    def _beats(self) -> list[Path]:
        """Return its progress files: one for each part that reports."""
        return list(self._beat.parent.glob(f"{self._beat.name}*"))

    def _forget_beats(self) -> None:
        self._seen.clear()
        for beat in self._beats():
            beat.unlink(missing_ok=True)

    def _start(self, now: float) -> None:
        self._forget_beats()
        environ = {**os.environ, "UPBEAT_PROGRESS_FILE": str(self._beat)}
        # In a group of its own: Ctrl-C in a terminal is one signal, to the supervisor.
        self._process = subprocess.Popen(self._command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)
        self._began = now
        self._excused = now
        logger.info("%s: started", self.part.label, extra={"pid": self._process.pid})

    def _died(self, code: int, now: float) -> None:
        self._sweep()
        self._process = None
        if self.unwanted:
            return
        if now - self._began > HEALTHY_SECONDS:
            self._delay, self._deaths = FIRST_DELAY, 0
        self._deaths += 1
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        logger.warning("%s: ended (%s), again in %g s", self.part.label, how, self._delay)
        if self._deaths >= CRASH_LOOP:
            self._tell(f"ended {self._deaths} times in a row, last {how}; starts again in {self._delay:g} s")
        self._start_at = now + self._delay
        self._delay = min(2 * self._delay, LAST_DELAY)

    def _tell(self, reason: str) -> None:
        """Let pages and doctor see a crash loop: the process itself cannot tell."""
        if self._trouble is None:
            source = None
            if self.part.source_id is not None:
                with contextlib.suppress(Error):
                    source = EventSource.objects.filter(pk=self.part.source_id).first()
                if source is None:
                    return
            self._trouble = Health(
                self.part.kind, source, instance=f"{self.part.name} of {os.uname().nodename}:{os.getpid()}"
            )
        self._trouble.beat({}, "failing", reason)

    def _sweep(self) -> None:
        """End what a dead process left in its group, such as the child that proves messages."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _silence(self, now: float) -> float | None:
        """Return for how long it has made no progress, if that is too long."""
        for beat in self._beats():
            try:
                modified = beat.stat().st_mtime
            except OSError:
                continue
            if self._seen.get(beat, (0.0, 0.0))[0] != modified:
                self._seen[beat] = (modified, now)
        patience = self._silent_seconds if self._seen else max(START_SECONDS, self._silent_seconds)
        oldest = min((seen for _, seen in self._seen.values()), default=self._began)
        silent = now - max(oldest, self._excused)
        return silent if silent > patience else None


def forget_dead() -> int:
    """Remove the rows of listeners that have been silent for long; returns how many. Never raises for the database."""
    try:
        count, _ = Listener.objects.filter(last_loop_at__lt=Now() - FORGET_AFTER).delete()
    except Error as error:
        logger.debug("dead listeners not removed", extra={"error": str(error)})
        connection.close()
        return 0
    return count


def default_progress_file(environ: Mapping[str, str]) -> Path:
    """Where a process reports that it makes progress, and where `--check` looks."""
    given = environ.get("UPBEAT_PROGRESS_FILE")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"upbeat-triggers-{os.getuid()}.beat"


def forget_progress(file: Path) -> None:
    """Remove what an earlier process left: `--check` must not take it for this one's."""
    for beat in file.parent.glob(f"{file.name}*"):
        beat.unlink(missing_ok=True)


def silence_of(file: Path) -> float | None:
    """Return the seconds since every part of the process behind a progress file made progress; None: it never did."""
    moments = []
    for beat in file.parent.glob(f"{file.name}*"):
        with contextlib.suppress(OSError):
            moments.append(beat.stat().st_mtime)
    return max(0.0, time.time() - min(moments)) if moments else None
