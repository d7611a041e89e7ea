"""The role `timers`: releases what is held, goes on with replays, makes and drops the days of the event table."""

from __future__ import annotations

import atexit
import logging
import time
from functools import cache
from typing import Final

from orchestrator.services.transactions import database_now
from triggers.ingest import partitions
from triggers.ingest.held import expire_held, release_due
from triggers.ingest.launcher import Launcher
from triggers.ingest.retention import forget
from triggers.listeners.roles import Guard
from triggers.services.replay_steps import advance_replays

logger = logging.getLogger(__name__)

#: Seconds of one turn that replays may take.
REPLAY_SECONDS: Final = 0.5
#: Seconds between two looks at the days, and at what is too old; at once again where much is.
HOUSEKEEPING_SECONDS: Final = 300.0


def turn(guard: Guard) -> int:
    """Do what is due, a bounded amount; returns how much, so that more is asked for at once."""
    done = expire_held(guard)
    released = release_due(guard)
    _launcher().offer(released.fired.run_ids)
    done += released.looked_at
    # Each of their steps is one process's, whoever leads.
    advance_replays(seconds=REPLAY_SECONDS)
    return done + _housekeeping.turn(guard)


class Housekeeping:
    """Looks now and then, and goes on at once where much is to be done."""

    def __init__(self, *, every: float = HOUSEKEEPING_SECONDS) -> None:
        self._every = every
        self._next = 0.0

    def turn(self, guard: Guard) -> int:
        """Make the days ahead and forget one batch of what is too old; returns how much went."""
        if time.monotonic() < self._next:
            return 0
        now = database_now()
        if made := partitions.ensure_days(now):
            logger.info("days of events made", extra={"partitions": made})
        gone = forget(now, guard)
        if not gone:
            self._next = time.monotonic() + self._every
        return gone


_housekeeping = Housekeeping()


@cache
def _launcher() -> Launcher:
    found = Launcher()
    atexit.register(found.close)
    return found
