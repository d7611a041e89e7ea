"""Writes batches beside the loop that reads: while the database works on one, the loop decodes and matches the next.

One batch at a time, each in its one transaction. Nothing is acknowledged here, and nothing before its batch is written.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from django.db import connections

from triggers.ingest import Pipeline, Prepared, Written

#: Seconds after which what was prepared ahead is prepared anew: rules are to be at most a second old.
AHEAD_SECONDS: Final = 0.5


class Writer:
    """A thread with a database connection of its own. For one loop, which waits for each batch before the next."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def begin(self, pipeline: Pipeline, prepared: Prepared) -> Future[Written]:
        """Begin to write; the result raises what `Pipeline.write` raises."""
        return self._thread.submit(_written, pipeline, prepared)

    def close(self) -> None:
        """Wait for what is being written, and let the connection go. Safe to call twice."""
        try:
            self._thread.submit(connections.close_all)
        except RuntimeError:
            return
        self._thread.shutdown()


def _written(pipeline: Pipeline, prepared: Prepared) -> Written:
    try:
        return pipeline.write(prepared)
    except Exception:
        # Here, for connections are each thread's own: the next try is to find one that works.
        for each in connections.all(initialized_only=True):
            if not each.in_atomic_block:
                each.close_if_unusable_or_obsolete()
        raise
