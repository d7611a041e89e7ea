"""Two transactions side by side for one large batch: while the database works on one, this process works on the other.

Order is not touched: what lies in one partition stays in one half, in its order. A batch of one queue is halved only
where no rule asks for an order.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from triggers.ingest.batch import Item
from triggers.rules.decide import Fires

#: A half costs a transaction of its own, which must be worth its while.
LEAST: Final = 200
#: Seconds after which the other thread gets its turn: at the default of 5 ms a thread whose statement is answered
#: waits for the other's work about as long as the statement took.
SWITCH_SECONDS: Final = 0.0005


def in_two(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Return the items, in order, whole or in two halves that may be written in any order."""
    if len(items) < LEAST:
        return [items]
    sizes = Counter([item.received.part for item in items])
    if len(sizes) > 1:
        chosen: set[str] = set()
        taken = 0
        for part, size in sizes.most_common():
            if taken + size <= len(items) // 2:
                chosen.add(part)
                taken += size
        if taken >= LEAST // 4:
            first = [item for item in items if item.received.part in chosen]
            return [[item for item in items if item.received.part not in chosen], first]
        return [items]
    if items[0].received.off is not None or any(map(_is_ordered, items)):
        return [items]
    return [items[: len(items) // 2], items[len(items) // 2 :]]


def _is_ordered(item: Item) -> bool:
    return any(isinstance(answer, Fires) and answer.admission_hash is not None for _, answer in item.fires)


def beside(work: Callable[[], None]) -> Future[None]:
    """Do work in the other thread of this process, which keeps its database connection."""
    return _executor().submit(work)


_lock = threading.Lock()
_executors: list[ThreadPoolExecutor] = []


def _executor() -> ThreadPoolExecutor:
    with _lock:
        if not _executors:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
            _executors.append(ThreadPoolExecutor(1, thread_name_prefix="ingest"))
        return _executors[0]
