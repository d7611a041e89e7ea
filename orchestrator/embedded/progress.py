"""A process tells its supervisor that it makes progress, not merely that it exists.

The supervisor names a file in UPBEAT_PROGRESS_FILE; `report` touches it, from the place that does the work. A process
with several such places names each part, and each has to keep reporting. Without a supervisor nothing happens.

    progress.report()                  # the one place of a process
    progress.report("reconciler")      # one of several
    progress.watch_consumer(app)       # a Celery worker: while its loop turns, with what it has accepted
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state

#: Often enough for the supervisor's patience of 30 s, rare enough to cost nothing.
EVERY_SECONDS = 2.0

_last: dict[str, float] = {}


def report(part: str = "", **facts: Any) -> None:
    """Say that `part` of this process just made progress. Cheap enough for a hot loop; never raises."""
    file = os.environ.get("UPBEAT_PROGRESS_FILE")
    if not file:
        return
    now = time.monotonic()
    if now - _last.get(part, float("-inf")) < EVERY_SECONDS / 2:
        return
    _last[part] = now
    # A full disk is a reason to complain elsewhere, none to stop working.
    with contextlib.suppress(OSError), open(f"{file}.{part}" if part else file, "w") as handle:
        json.dump(facts, handle)


class ConsumerProgress(bootsteps.StartStopStep):
    """Reports from the loop that consumes messages, so that a worker whose loop stands still is found out.

    A worker was seen alive after a broker's death, its loop turning, and yet consuming nothing: hence the count of
    accepted messages and whether a slot is free, which the supervisor holds against what waits in the lanes.
    """

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        self._report(consumer)
        self._entry = consumer.timer.call_repeatedly(EVERY_SECONDS, self._report, (consumer,))

    def stop(self, consumer: Any) -> None:
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def _report(self, consumer: Any) -> None:
        slots = consumer.pool.num_processes if consumer.pool else 1
        report(accepted=sum(state.total_count.values()), free=len(state.active_requests) < slots)


def watch_consumer(app: Celery) -> None:
    """Add the report to every worker of `app`."""
    app.steps["consumer"].add(ConsumerProgress)
