"""Keeps the leases of this process's attempts, and tells an attempt when to stop.

One thread in the process that runs the attempts renews all of them with one statement. Never in a prefork parent:
the thread starts with the first attempt a process holds, so always in the child.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field

from django.db import Error, close_old_connections

from orchestrator.conf import options
from orchestrator.services.attempts import Claimed, renew_leases
from workers.executors.base import StopSignal

logger = logging.getLogger(__name__)

#: A lease is renewed three times before it ends.
RENEWALS_PER_LEASE = 3
#: An executor ends its attempt at the deadline; one that hangs past it by so much loses its lease, and with it the task.
HANGS_AFTER_SECONDS = 60.0


@dataclass(slots=True)
class Held:
    """An attempt of this process. `good_until` is the end of its lease on this process's own clock."""

    claimed: Claimed
    stop: StopSignal
    good_until: float = field(default=0.0)
    hangs_at: float = field(default=float("inf"))


class LeaseKeeper:
    """The leases of one process. Thread-safe; after a fork the child starts with none."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[int, Held] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, claimed: Claimed, stop: StopSignal) -> None:
        """Renew this claim's lease until `drop`."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            now = time.monotonic()
            self._held[claimed.task_run_id] = Held(
                claimed, stop, now + options().lease_seconds, now + claimed.seconds_left + HANGS_AFTER_SECONDS
            )
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
                self._thread.start()

    def drop(self, claimed: Claimed) -> None:
        """Stop renewing; the attempt is settled or fenced off."""
        with self._lock:
            held = self._held.get(claimed.task_run_id)
            if held is not None and held.claimed.token == claimed.token:
                del self._held[claimed.task_run_id]

    def holds(self, task_run_id: int) -> bool:
        """Whether an attempt of this process runs that task run."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            return task_run_id in self._held

    def _run(self) -> None:
        while True:
            self._wake.wait(options().lease_seconds / RENEWALS_PER_LEASE)
            with self._lock:
                held = dict(self._held)
            now = time.monotonic()
            for id in [id for id, entry in held.items() if now > entry.hangs_at]:
                logger.error("attempt hangs past its deadline: lease given up", extra={"task_run": id})
                held.pop(id).stop.request("timeout")
            if held:
                self._renew(held)

    def _renew(self, held: dict[int, Held]) -> None:
        started = time.monotonic()
        try:
            close_old_connections()
            kept = renew_leases({id: entry.claimed.token for id, entry in held.items()})
        except Error as error:
            logger.warning("leases not renewed", extra={"count": len(held), "error": str(error).splitlines()[0]})
            for entry in held.values():
                # Its token decides what its outcome is worth; but a lock must not be held by two.
                if entry.claimed.lock_count and time.monotonic() > entry.good_until:
                    entry.stop.request("lease_lost")
            return
        for id, entry in held.items():
            if id not in kept:
                # Settled a moment ago, or another attempt owns the task run by now.
                if self.holds(id):
                    entry.stop.request("lease_lost")
                continue
            entry.good_until = started + options().lease_seconds
            reason = kept[id]
            if reason is not None:
                entry.stop.request(reason or "cancelled")


keeper = LeaseKeeper()
