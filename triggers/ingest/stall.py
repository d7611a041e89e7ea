"""Back-pressure: when to stop reading, because what was read waits, or the database takes too long or is nearly full."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from django.db import DatabaseError, InterfaceError, connection

from orchestrator.conf import options
from orchestrator.services import runs

logger = logging.getLogger(__name__)

#: Seconds for which an answer holds.
_LOOKS_EVERY: Final = 1.0
#: Writes of this many seconds are looked at.
_WINDOW: Final = 30.0
_SLOWEST: Final = 2.0
#: Fewer writes than these say nothing of a percentile.
_ENOUGH: Final = 5
#: Bytes that must be free beside the ledger, where it is a file of ours.
_LEAST_FREE: Final = 64 * 2**20


class Backpressure:
    """Whether this process should stop reading. Safe between threads."""

    def __init__(
        self,
        *,
        unlaunched: Callable[[], int] | None = None,
        queued: Callable[[int], int] = runs.queued_count,
        free: Callable[[], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unlaunched = unlaunched or (lambda: runs.unlaunched_count()[0])
        self._queued = queued
        self._free = free or _free_beside_the_ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._writes: deque[tuple[float, float]] = deque()
        self._looked_at = float("-inf")
        self._found: dict[str, str] = {}

    def wrote(self, seconds: float) -> None:
        """Note how long a batch took to write, or to fail."""
        with self._lock:
            self._writes.append((self._clock(), seconds))

    def reason(self) -> str | None:
        """Return why to stop reading, its first word a name; None to go on. Asks the database once a second at most.

        What stopped at its limit goes on at half of it.
        """
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= _LOOKS_EVERY:
                self._looked_at = now
                self._found = {**self._too_many(), **self._too_slow(now), **self._too_full()}
            return "; ".join(self._found.values()) or None

    def _too_many(self) -> dict[str, str]:
        found = {}
        try:
            if limit := options().unlaunched_limit:
                count = self._unlaunched()
                if count > self._bound("unlaunched", limit):
                    found["unlaunched"] = f"unlaunched: {count} runs wait for their launch, at most {limit}"
            if limit := options().queued_limit:
                bound = self._bound("queued", limit)
                if self._queued(bound) > bound:
                    found["queued"] = f"queued: more than {bound} runs are pending, at most {limit}"
        except (DatabaseError, InterfaceError) as error:
            # The next write will say so too, and hold; until then nothing has changed.
            logger.debug("waiting runs could not be counted", exc_info=error)
            return {kind: said for kind, said in self._found.items() if kind in ("unlaunched", "queued")}
        return found

    def _bound(self, kind: str, limit: int) -> int:
        return limit // 2 if kind in self._found else limit

    def _too_full(self) -> dict[str, str]:
        free = self._free()
        if free is not None and free < _LEAST_FREE * (2 if "disk_low" in self._found else 1):
            return {
                "disk_low": f"disk_low: {free // 2**20} MiB are free beside the ledger, at least {_LEAST_FREE // 2**20}"
            }
        return {}

    def _too_slow(self, now: float) -> dict[str, str]:
        while self._writes and self._writes[0][0] < now - _WINDOW:
            self._writes.popleft()
        if len(self._writes) < _ENOUGH:
            # After half a minute without writes nobody knows: the next ones show.
            return {}
        seconds = sorted(taken for _, taken in self._writes)
        p95 = seconds[int(len(seconds) * 0.95)]
        if p95 > (_SLOWEST / 2 if "database_slow" in self._found else _SLOWEST):
            return {"database_slow": f"database_slow: 95 of 100 writes take up to {p95:.1f} s"}
        return {}


def _free_beside_the_ledger() -> int | None:
    """Bytes; None where a server keeps the ledger: a full disk of its own shows as writes that it refuses."""
    if connection.vendor != "sqlite":
        return None
    try:
        return shutil.disk_usage(options().home_path).free
    except OSError as error:
        logger.debug("the free space could not be read", exc_info=error)
        return None


#: Of this process: its launcher and its listener share one database.
_shared = Backpressure()
stall_reason = _shared.reason
wrote = _shared.wrote
