"""How a process of ours is asked to end: the signal is noted, a thread acts on it, and nobody stays for ever.

Celery does its whole shutdown inside the signal handler, which runs on the main thread wherever that happens to stand.
If it stands within a lock that the shutdown needs as well (the executor's while a thread is started, the event loop's,
that of a database connection in mid-query), it waits for itself. So the handler writes one byte here, and nothing else.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

#: After all that was waited for is over, an end in order takes a second or two. What takes longer is stuck.
GRACE_SECONDS = 12.0
#: The exit code of a process that had to be ended because it did not come to its end by itself.
INSISTED = 70


class Request:
    """That the process shall end. Asking again means: at once."""

    def __init__(self, reader: int, number: int) -> None:
        self._reader = reader
        self.signal = signal.Signals(number)

    def repeated(self, within: float) -> bool:
        """Wait for `within` seconds and return whether the process was asked again meanwhile."""
        ready, _, _ = select.select([self._reader], [], [], within)
        if ready:
            os.read(self._reader, 1)
        return bool(ready)

    def insist(self, after: float = GRACE_SECONDS) -> None:
        """End the process `after` seconds from now unless it has ended by then, and say where it stood.

        Safe at any moment: what is running then is what a killed process leaves, and the ledger heals that.
        """
        self.repeated(after)
        logger.critical("the process did not come to its end; ending it", extra={"after_seconds": after})
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        os._exit(INSISTED)


def when_asked_to_end(act: Callable[[Request], None], *, signals: Iterable[signal.Signals]) -> None:
    """Call `act` in a thread of its own once one of `signals` arrives. To be called on the main thread.

    Replaces the handlers that are there. `act` runs beside the main thread and must not touch what belongs to that.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number: int, frame: object) -> None:
        with contextlib.suppress(BlockingIOError):  # thousands of requests wait to be read
            os.write(writer, bytes([number]))

    def wait() -> None:
        act(Request(reader, os.read(reader, 1)[0]))

    threading.Thread(target=wait, name="ending", daemon=True).start()
    for number in signals:
        signal.signal(number, note)
