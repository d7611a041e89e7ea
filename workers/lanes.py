"""A worker process says every few seconds which lanes it takes from, and with how many slots.

From a thread, in the process that consumes: it must go on while every slot is busy, and with the database away it
tries again at its next turn. A forked child never inherits a connection in mid-statement: forks wait for the report.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down
from django.db import Error, connection

from orchestrator.services.lanes import REPORT_SECONDS, forget, report_lanes

logger = logging.getLogger(__name__)


class LaneReporter:
    """The reports of one worker process, from `start` to `stop`. Both are safe to call twice."""

    def __init__(self) -> None:
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self._reporting = threading.Lock()
        os.register_at_fork(
            before=lambda: self._reporting.acquire(),
            after_in_parent=lambda: self._reporting.release(),
            after_in_child=self._in_child,
        )

    def start(self, app: Celery, worker: str, slots: int) -> None:
        """Report from now on."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._leaving = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(app, worker, slots, self._leaving), name="lane-reporter", daemon=True
        )
        self._thread.start()

    def stop(self, *, wait: float = 0.0) -> None:
        """Let the thread take the worker off the list and end; with `wait`, see that it did, for so many seconds."""
        self._leaving.set()
        if wait and self._thread is not None:
            self._thread.join(wait)

    def _in_child(self) -> None:
        # A child takes work for its parent, which reports; threads do not survive a fork.
        self._reporting = threading.Lock()
        self._thread = None

    def _run(self, app: Celery, worker: str, slots: int, leaving: threading.Event) -> None:
        while True:
            self._say(lambda: report_lanes(worker, list(app.amqp.queues.consume_from), slots))
            if leaving.wait(REPORT_SECONDS):
                break
        self._say(lambda: forget(worker))

    def _say(self, what: Callable[[], object]) -> None:
        with self._reporting:
            try:
                what()
            except Error as error:
                logger.info("lanes not reported", extra={"error": str(error).splitlines()[0]})
            finally:
                # Every ten seconds a new connection is cheaper than one that is idle for ever, and a fork inherits none.
                connection.close()


reporter = LaneReporter()


@worker_ready.connect
def _report(sender: Any, **kwargs: Any) -> None:
    slots = sender.pool.num_processes if sender.pool else 1
    reporter.start(sender.app, sender.hostname, slots)


@worker_shutting_down.connect
def _leave(**kwargs: Any) -> None:
    # Inside a signal handler: the thread does the rest, while running attempts end.
    reporter.stop()


@worker_shutdown.connect
def _left(**kwargs: Any) -> None:
    reporter.stop(wait=3.0)
