"""The reconciler's loop: leads under a lease, heals in rounds, releases timers in between."""

from __future__ import annotations

import logging
import threading
import time

from django.db import Error, close_old_connections, connection

from orchestrator import metrics
from orchestrator.conf import options
from orchestrator.embedded import progress
from orchestrator.ledger import reconciler
from orchestrator.ledger.leadership import RENEW_SECONDS, Leadership

logger = logging.getLogger(__name__)

#: A longer pause from the end of one tick to the next means that this process was frozen.
UNBROKEN_SECONDS = 5.0


class Reconciler:
    """One candidate for the reconciler's lead, with a database connection of its own thread."""

    def __init__(self) -> None:
        self.leadership = Leadership("reconciler")
        self._stop = threading.Event()
        self._reachable_since: float | None = None
        self._last_tick = time.monotonic()
        self._next_round = 0.0

    def run(self) -> None:
        """Tick until `stop`; a database that is away ends nothing."""
        while not self._stop.wait(RENEW_SECONDS):
            self.tick()
        try:
            self.leadership.resign()
        except Error:
            logger.debug("lease not given up: it expires by itself")
        connection.close()

    def stop(self) -> None:
        self._stop.set()

    def tick(self) -> dict[str, int]:
        """Renew the lead, release timers, and heal if a round is due; returns what was healed, by cause."""
        now = time.monotonic()
        if now - self._last_tick > UNBROKEN_SECONDS:
            self._reachable_since = None
        try:
            close_old_connections()
            if not self.leadership.seek():
                self._reachable_since = None
                progress.report("reconciler")
                return {}
            if self._reachable_since is None:
                self._reachable_since = now
            healed = reconciler.timers(self.leadership.still_leads)
            if now >= self._next_round:
                self._next_round = now + reconciler.lag_seconds()
                # An outage of the database must not turn running work into lost work: attempts get the time of
                # one lease to renew before any lease counts as expired.
                unbroken = now - self._reachable_since >= options().lease_seconds
                healed = reconciler.round_of(self.leadership.still_leads, may_expire=unbroken)
            for cause, count in healed.by_cause.items():
                metrics.HEALS.labels(cause).inc(count)
                logger.info("healed", extra={"cause": cause, "count": count})
            progress.report("reconciler")
            return healed.by_cause
        except Error as error:
            logger.warning("reconciler: database away", extra={"error": str(error).splitlines()[0]})
            self._reachable_since = None
            connection.close()
            return {}
        except Exception:
            # The loop outlives a defect in one step; the supervisor sees no progress if it persists.
            logger.exception("reconciler: round failed")
            return {}
        finally:
            # From its end: a long round is no break, the database was there all along.
            self._last_tick = time.monotonic()
