"""What a listener says of itself, from its own loop and from nowhere else: a loop that stands still says nothing more.

    health = Health("kafka", source)
    health.beat({"orders/0": 12}, "paused", "back-pressure: 20,000 runs wait to be launched")
    health.close()          # an end in order leaves no row

Two readers: the Listener row (pages, metrics, doctor), at most every 5 s, and the progress file of the process, by which
its supervisor finds out that the loop stands still.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Literal

from django.db import Error, InterfaceError, connection
from django.db.models.functions import Now

from orchestrator.embedded import progress
from triggers.models import EventSource, Listener

logger = logging.getLogger(__name__)

State = Literal["ok", "paused", "degraded", "failing"]

WRITE_SECONDS: Final = 5.0
#: Without a word for so long, a listener stands still or is gone.
SILENT_SECONDS: Final = 60.0


def instance_name(what: str) -> str:
    """Return the name of a listener in this process: of two processes no two are equal."""
    return f"{what}@{socket.gethostname()}:{os.getpid()}"[:200]


class Health:
    """The reports of one listener or role. For one thread: the one whose loop it speaks of."""

    def __init__(
        self, kind: str, source: EventSource | None = None, *, instance: str = "", slot: int = 0, part: str = ""
    ) -> None:
        self.kind = kind
        #: Which of the source's processes on this host it is, from 0.
        self.slot = slot
        #: Named where several loops of one process report.
        self._part = part
        self.source = source
        self.instance = instance or instance_name(source.slug if source is not None else kind)
        self._next_write = 0.0
        self._said: tuple[str, str] | None = None
        self._known = False

    def beat(self, assigned: Mapping[str, int | None] | None = None, state: State = "ok", reason: str = "") -> None:
        """Say that the loop turns, what it reads (part → messages not yet read, None: unknown), and how it is.

        Cheap enough for each turn of a hot loop. Never raises for a database or a disk that is away; inside a
        transaction it writes no row.
        """
        progress.report(self._part)
        now = time.monotonic()
        # A change is told at once, the same again only now and then.
        if now < self._next_write and (state, reason) == self._said:
            return
        if connection.in_atomic_block:
            return
        self._next_write = now + WRITE_SECONDS
        self._said = (state, reason)
        try:
            self._write(dict(assigned or {}), state, reason[:500])
        except Error as error:
            # The loop meets the same trouble where it matters, and deals with it there.
            logger.debug("health not written", extra={"instance": self.instance, "error": str(error)})
            self._drop_connection()

    def close(self) -> None:
        """Remove the row: this listener has ended in order. Safe to call twice; never raises for the database."""
        try:
            Listener.objects.filter(instance=self.instance).delete()
        except Error as error:
            logger.debug("health not removed", extra={"instance": self.instance, "error": str(error)})
            self._drop_connection()
        self._known = False

    def _write(self, assigned: dict[str, int | None], state: str, reason: str) -> None:
        said = {"assigned": assigned, "last_loop_at": Now(), "state": state, "reason": reason}
        if self._known and Listener.objects.filter(instance=self.instance).update(**said):
            return
        Listener.objects.update_or_create(
            instance=self.instance,
            defaults={**said, "kind": self.kind, "source": self.source},
            create_defaults={**said, "kind": self.kind, "source": self.source, "started_at": Now()},
        )
        self._known = True

    def _drop_connection(self) -> None:
        try:
            connection.close()
        except (Error, InterfaceError):
            logger.debug("connection not closed", exc_info=True)
