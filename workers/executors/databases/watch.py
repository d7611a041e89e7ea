"""Ends what a database does for an attempt when its time is up or a stop is requested."""

from __future__ import annotations

import threading
import time
from enum import Enum
from types import TracebackType
from typing import Self

from workers.executors.base import StopSignal
from workers.executors.databases.base import Database

#: A cancel may arrive between two statements, and is repeated so often.
AGAIN_SECONDS = 0.5
#: How long a database may take to obey before its connection is cut.
PATIENCE_SECONDS = 5.0
#: A server that counts the same seconds may be so much quicker.
MARGIN_SECONDS = 0.05


class Cause(Enum):
    TIMEOUT = "timeout"
    STOPPED = "stopped"


class Interrupted(Exception):
    """The attempt's time is up, or a stop was requested, between two steps."""


class Watch:
    """A thread beside the one that waits for the database. `cause` is set before the database hears of it."""

    def __init__(self, database: Database, stop: StopSignal, timeout: float, *, patience: float) -> None:
        self._database = database
        self._stop = stop
        self._deadline = time.monotonic() + timeout
        self._patience = patience
        self._woken = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="sql-watch", daemon=True)
        self.cause: Cause | None = None

    def __enter__(self) -> Self:
        self._stop.on_request(self._woken.set)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._woken.set()
        # It may be in the middle of a cancel, which must not hit what comes after this attempt.
        self._thread.join()

    @property
    def seconds_left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self._deadline - MARGIN_SECONDS

    def check(self) -> None:
        """Raise Interrupted if nothing more may begin."""
        if self.cause is None and self._stop.requested:
            self.cause = Cause.STOPPED
        elif self.cause is None and time.monotonic() >= self._deadline:
            self.cause = Cause.TIMEOUT
        if self.cause is not None:
            raise Interrupted

    def _run(self) -> None:
        self._woken.wait(self.seconds_left)
        if self._over:
            return
        if self.cause is None:
            self.cause = Cause.STOPPED if self._stop.requested else Cause.TIMEOUT
        give_up = time.monotonic() + self._patience
        self._woken.clear()
        while not self._over:
            if time.monotonic() < give_up:
                self._database.cancel()
            else:
                self._database.abandon()
            self._woken.wait(AGAIN_SECONDS)
            if not self._over:
                self._woken.clear()
