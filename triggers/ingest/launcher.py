"""Launch what was just recorded, beside the loop that reads: a shortcut, not a duty. The reconciler makes it sure."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from django.db import close_old_connections, connection

from orchestrator.conf import options
from orchestrator.services import runs
from triggers.ingest import crash
from triggers.metrics import LAUNCH_FAILURES

logger = logging.getLogger(__name__)

#: Offers that may wait.
_WAITING: Final = 512
#: Runs of one hint.
HINTED: Final = 500
#: Seconds without a try after a failure: a broker that swallows messages costs a socket time-out each time.
OPEN_SECONDS: Final = 10.0


class BrokerAway(Exception):
    """Celery's broker took no message."""


class Launcher:
    """One thread with a bounded queue. Small batches it launches itself, for larger ones it asks a control worker."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue: queue.Queue[Sequence[int] | None] = queue.Queue(_WAITING)
        self._clock = clock
        self._open_until = 0.0
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self._stopped = False

    def offer(self, run_ids: Sequence[int]) -> bool:
        """Take runs whose transport has been told; returns whether they were taken. Never blocks, never raises.

        What is not taken is counted and left to the reconciler.
        """
        if not run_ids:
            return True
        crash.reached(crash.after_acknowledge)
        if self._stopped or self._clock() < self._open_until:
            _left("circuit_open")
            return False
        if self._thread is None:
            # Webhooks offer from several threads at once.
            with self._start:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="launcher", daemon=True)
                    thread.start()
                    self._thread = thread
        try:
            self._queue.put_nowait(run_ids)
        except queue.Full:
            _left("queue_full")
            return False
        return True

    def close(self, *, within: float = 5.0) -> None:
        """Launch what waits, as far as `within` seconds go, and end the thread. Safe to call twice."""
        self._stopped = True
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=within)
        self._thread.join(within)
        self._thread = None

    def _run(self) -> None:
        try:
            while (offered := self._queue.get()) is not None:
                run_ids = self._gathered(offered)
                if self._clock() < self._open_until:
                    _left("circuit_open")
                    continue
                try:
                    close_old_connections()
                    launch(run_ids)
                except Exception as error:  # the border of this thread: broker or pool, the reconciler stands behind it
                    self._open_until = self._clock() + OPEN_SECONDS
                    _left(type(error).__name__)
                    logger.warning(
                        "runs are left to the reconciler", extra={"runs": len(run_ids), "reason": str(error)}
                    )
        finally:
            connection.close()

    def _gathered(self, offered: Sequence[int]) -> Sequence[int]:
        """Return what was offered with what waits behind it, as far as one launch goes.

        A webhook offers one run at a time, and a launch costs nearly the same for one run as for many: one by one a
        hundred a second would fill the queue and be left to the reconciler.
        """
        most = options().launch_inline
        found = list(offered)
        while len(found) < most:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put_nowait(None)  # the end is for the loop
                break
            found += more
        # Runs of one ordering key are launched in the order of their ids.
        return sorted(found)


def launch(run_ids: Sequence[int]) -> None:
    """Launch runs: a few here and now, many by hints. Raises what the database and the broker raise."""
    if len(run_ids) <= options().launch_inline:
        runs.launch_runs(run_ids)
    else:
        for start in range(0, len(run_ids), HINTED):
            if not runs.publish_launch(run_ids[start : start + HINTED]):
                raise BrokerAway("the control workers could not be asked")
            crash.reached(crash.during_launch)


def _left(cause: str) -> None:
    LAUNCH_FAILURES.labels(cause).inc()
