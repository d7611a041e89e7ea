"""Back-pressure: when to stop reading, because what was read waits, or because the database takes too long."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from django.db import DatabaseError, InterfaceError

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


class Backpressure:
    """Whether this process should stop reading. Safe between threads."""

    def __init__(
        self, *, unlaunched: Callable[[], int] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._unlaunched = unlaunched or (lambda: runs.unlaunched_count()[0])
        self._clock = clock
        self._lock = threading.Lock()
        self._writes: deque[tuple[float, float]] = deque()
        self._looked_at = float("-inf")
        self._reason: str | None = None
        self._kinds: frozenset[str] = frozenset()

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
                found = {**self._too_many(), **self._too_slow(now)}
                self._kinds = frozenset(found)
                self._reason = "; ".join(found.values()) or None
            return self._reason

    def _too_many(self) -> dict[str, str]:
        limit = options().unlaunched_limit
        if not limit:
            return {}
        try:
            count = self._unlaunched()
        except (DatabaseError, InterfaceError) as error:
            # The next write will say so too, and hold; until then nothing has changed.
            logger.debug("waiting runs could not be counted", exc_info=error)
            return {"unlaunched": self._reason} if self._reason and "unlaunched" in self._kinds else {}
        if count > (limit // 2 if "unlaunched" in self._kinds else limit):
            return {"unlaunched": f"unlaunched: {count} runs wait for their launch, at most {limit}"}
        return {}

    def _too_slow(self, now: float) -> dict[str, str]:
        while self._writes and self._writes[0][0] < now - _WINDOW:
            self._writes.popleft()
        if len(self._writes) < _ENOUGH:
            # After half a minute without writes nobody knows: the next ones show.
            return {}
        seconds = sorted(taken for _, taken in self._writes)
        p95 = seconds[int(len(seconds) * 0.95)]
        if p95 > (_SLOWEST / 2 if "database_slow" in self._kinds else _SLOWEST):
            return {"database_slow": f"database_slow: 95 of 100 writes take up to {p95:.1f} s"}
        return {}


#: Of this process: its launcher and its listener share one database.
_shared = Backpressure()
stall_reason = _shared.reason
wrote = _shared.wrote
