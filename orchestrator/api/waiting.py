"""Waiting for the end of runs: one poller for all that wait in this process.

A waiting call holds a future, no thread and no database connection; one query every tenth of a second asks for all
runs that anybody waits for. Nothing runs while nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
#: While the database does not answer.
RETRY_SECONDS: Final = 1.0


class EndPoller:
    """Wakes the calls that wait for a run once it has ended."""

    def __init__(self, ended_among: Callable[[Collection[int]], Awaitable[set[int]]]) -> None:
        self._ended_among = ended_among
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def wait(self, run_id: int, seconds: float) -> bool:
        """Return as soon as the run has ended, and then true, or false after so many seconds."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                await future
            return True
        except TimeoutError:
            return False
        finally:
            if futures := self._waiting.get(run_id):
                futures.discard(future)
                if not futures:
                    del self._waiting[run_id]

    async def _poll(self) -> None:
        while self._waiting:
            try:
                ended = await self._ended_among(list(self._waiting))
            except Exception as error:  # a database that restarts must not leave the callers waiting for ever
                log.warning("waiting calls cannot be served", extra={"reason": str(error).strip()})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for run_id in ended:
                for future in self._waiting.pop(run_id, ()):
                    if not future.done():
                        future.set_result(None)
            await asyncio.sleep(POLL_SECONDS)
