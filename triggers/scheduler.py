"""Beat: runs plain PeriodicTasks while it leads, and carries the reconciler and the pruner as threads of their own."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

from celery.signals import beat_init
from django.db import Error, close_old_connections
from django_celery_beat.schedulers import DatabaseScheduler

from orchestrator.embedded import progress
from orchestrator.endings import Request, when_asked_to_end
from orchestrator.services.leadership import RENEW_SECONDS, Leadership
from orchestrator.services.recovery import Reconciler
from orchestrator.services.retention import Pruner

logger = logging.getLogger(__name__)


class LedgerScheduler(DatabaseScheduler):
    """DatabaseScheduler under a leader lease. Any number of beats may run: one fires, the others stand by.

    Gaining the lead reloads all entries: a standby that kept its own would replay everything since its start.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.leadership = Leadership("beat")
        self._sought_at = 0.0
        self._changed_at = 0.0
        self._leads = False
        self._reconciler: Reconciler | None = None
        self._thread: threading.Thread | None = None
        self._pruner = Pruner(lambda: self._leads)
        super().__init__(*args, **kwargs)
        self.max_interval = RENEW_SECONDS
        if not kwargs.get("lazy"):
            self._start_reconciler()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        progress.report("beat")
        try:
            if not self._lead():
                return RENEW_SECONDS
            due = super().tick(*args, **kwargs)
        except Error as error:
            logger.warning("beat: database away", extra={"error": str(error).splitlines()[0]})
            self._leads = False
            close_old_connections()
            return RENEW_SECONDS
        return min(float(due), RENEW_SECONDS)

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        # A beat frozen between its renewal and this call has been replaced: what it would send was sent.
        if not self.leadership.seek():
            self._leads = False
            return None
        return super().apply_async(entry, *args, **kwargs)

    def schedule_changed(self) -> bool:
        # Asked several times a tick; each costs a query, and a change may wait half a second.
        if time.monotonic() - self._changed_at < RENEW_SECONDS:
            return False
        self._changed_at = time.monotonic()
        return bool(super().schedule_changed())

    def close(self) -> None:
        if self._reconciler is not None and self._thread is not None:
            self._reconciler.stop()
            # It stops between two batches; one that is cut short is rolled back.
            self._pruner.stop()
            self._thread.join(timeout=5)
        if self._leads:
            self.leadership.resign()
        super().close()

    def _lead(self) -> bool:
        now = time.monotonic()
        if now - self._sought_at < RENEW_SECONDS:
            return self._leads
        self._sought_at = now
        close_old_connections()
        led_before = self._leads
        self._leads = self.leadership.seek()
        if self._leads and not led_before:
            # Forces a full reload on the next look at the schedule.
            self._initial_read = True
            self._heap = None
        return self._leads

    def _start_reconciler(self) -> None:
        self._reconciler = Reconciler()
        self._thread = threading.Thread(target=self._reconciler.run, name="reconciler", daemon=True)
        self._thread.start()
        threading.Thread(target=self._pruner.run, name="pruner", daemon=True).start()


@beat_init.connect
def _end_in_order(sender: Any, **kwargs: Any) -> None:
    """Let beat end between two ticks. Celery's handler gives the lead back wherever the main thread stands: in the
    middle of a query it would wait for the connection that it holds itself."""
    if threading.current_thread() is threading.main_thread():
        when_asked_to_end(lambda request: _end(sender, request), signals=(signal.SIGTERM, signal.SIGINT))


def _end(service: Any, request: Request) -> None:
    service.stop()
    request.insist()
