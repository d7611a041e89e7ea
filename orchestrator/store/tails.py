"""The growing end of one log in a store of objects, written behind the back of whoever appends.

An object cannot be appended to, so the last one is written again with what has come since, until it is large enough
to be left alone. That bounds everything: a line that was appended is readable within PAUSE_SECONDS and one call, a log
has one object for each SMALL_BYTES or fewer, a flood goes out in objects of LARGE_BYTES, and what waits in memory is
never more than WAITING_BYTES, beyond which the appender waits. While the store is away what came is kept and tried
again, so a short outage costs nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from orchestrator.errors import UpbeatError
from orchestrator.store.base import LogCut, StoreError

logger = logging.getLogger(__name__)

#: Between two writes of the same object, unless much has come.
PAUSE_SECONDS = 0.3
#: An object of this size is not written again. Smaller: more objects; larger: more bytes written twice.
SMALL_BYTES = 128 * 1024
LARGE_BYTES = 8 * 2**20
WAITING_BYTES = 16 * 2**20
#: Between two tries while the store is away.
RETRY_SECONDS = 1.0
#: So long the end of an attempt waits for a store that is away.
CLOSE_SECONDS = 15.0


class Tail:
    """One log's end. `find_end` returns the size of what is stored, `write(start, content)` replaces an object."""

    def __init__(
        self,
        *,
        find_end: Callable[[], int],
        write: Callable[[int, bytes], None],
        name: str,
    ) -> None:
        self._find_end = find_end
        self._write = write
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._problem: StoreError | None = None
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"tail of {name}", daemon=True)
        self._thread.start()

    def append(self, data: bytes) -> None:
        """Take data, waiting while too much waits already. Raises StoreError when the store is away and memory full."""
        with self._changed:
            while self._waiting and len(self._waiting) + len(data) > WAITING_BYTES:
                if self._problem is not None:
                    raise StoreError(self._problem.message)
                self._changed.wait()
            self._waiting += data
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits; raises LogCut for what could not be written in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        with self._changed:
            self._abandoned = True
            lost = len(self._waiting)
            problem = self._problem.message if self._problem else "the store did not answer in time"
        if lost:
            raise LogCut(problem, lost=lost)

    def _run(self) -> None:
        start: int | None = None
        content = b""  # of the last object, as long as it is written again
        while (taken := self._take(LARGE_BYTES - len(content))) is not None:
            try:
                if start is None:
                    # An attempt that was put off goes on elsewhere: its log may have a beginning.
                    start = self._find_end()
                self._write(start, content + taken)
            except UpbeatError as error:
                problem = error if isinstance(error, StoreError) else StoreError(error.message)
                if not self._may_try_again(problem):
                    return
                continue
            self._taken(len(taken))
            content += taken
            if len(content) >= SMALL_BYTES:
                start, content = start + len(content), b""

    def _take(self, most: int) -> bytes | None:
        """Wait for something to write and return it, or None when there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting or self._abandoned:
                return None
            with memoryview(self._waiting) as waiting:
                return bytes(waiting[:most])

    def _taken(self, count: int) -> None:
        with self._changed:
            del self._waiting[:count]
            self._problem = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or len(self._waiting) >= LARGE_BYTES, PAUSE_SECONDS)

    def _may_try_again(self, problem: StoreError) -> bool:
        with self._changed:
            if self._problem is None:
                logger.warning("log waits for its store", extra={"error": problem.message})
            self._problem = problem
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._abandoned, RETRY_SECONDS)
            return not self._abandoned
