"""Two transactions side by side for one large batch: while the database works on one, this process works on the other.

What lies in one partition stays in one half, in its order. A batch of one partition or queue is halved only where no rule
asks for an order: then its events keep theirs, and their runs have none.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from django.db import connection

from triggers.ingest.batch import Item
from triggers.rules.decide import Fires

#: A half costs a transaction of its own, which must be worth its while.
LEAST: Final = 200
#: Seconds after which the other thread gets its turn: at the default of 5 ms a thread whose statement is answered
#: waits for the other's work about as long as the statement took.
SWITCH_SECONDS: Final = 0.0005
#: Seconds after which a connection that nobody uses is given up.
IDLE_SECONDS: Final = 5.0


def in_two(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Return the items, in order, whole or in two halves that may be written in any order."""
    if len(items) < LEAST:
        return [items]
    chosen: set[str] = set()
    taken = 0
    for part, size in Counter([item.received.part for item in items]).most_common():
        if taken + size <= len(items) // 2:
            chosen.add(part)
            taken += size
    if taken >= len(items) // 4:
        first = [item for item in items if item.received.part in chosen]
        return [[item for item in items if item.received.part not in chosen], first]
    if any(map(_is_ordered, items)):
        return [items]
    # A backlog comes partition by partition: batches of one partition are the rule when there is most to do.
    return [items[: len(items) // 2], items[len(items) // 2 :]]


def _is_ordered(item: Item) -> bool:
    return any(isinstance(answer, Fires) and answer.admission_hash is not None for _, answer in item.fires)


def beside(work: Callable[[], None]) -> Future[None]:
    """Do work in the other thread of this process, which keeps its database connection while it is used."""
    done: Future[None] = Future()
    with _lock:
        if not _threads:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
            _threads.append(threading.Thread(target=_run, name="ingest", daemon=True))
            _threads[0].start()
        _work.put((work, done))
    return done


def close() -> None:
    """End the other thread and its database connection, for a process that goes on without it. Safe to call twice."""
    with _lock:
        if _threads:
            _work.put(None)
            _threads.pop().join()


_lock = threading.Lock()
_threads: list[threading.Thread] = []
_work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()


def _run() -> None:
    while True:
        try:
            asked = _work.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            connection.close()
            asked = _work.get()
        if asked is None:
            connection.close()
            return
        work, done = asked
        try:
            work()
        except BaseException as error:  # whoever waits for it raises it
            done.set_exception(error)
        else:
            done.set_result(None)
