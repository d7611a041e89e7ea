"""How long the engine waits for its fast path before the reconciler takes over; what answers "until when?" reads it too."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

#: A hint is published again after 15 s, 30 s, 60 s … at most every five minutes.
LONGEST_PAUSE: Final = timedelta(minutes=5)
#: The pause doubles so often at most.
DOUBLINGS: Final = 5
#: Final tasks that nobody planned for so long are planned by the reconciler: the message that would have is lost.
UNPLANNED_AFTER: Final = timedelta(seconds=5)
#: Pending runs without a verdict for so long: the hint to launch them is lost.
UNLAUNCHED_AFTER: Final = timedelta(seconds=15)
#: Without a report for so long a worker counts as gone: three reports in a row are missing.
WORKER_LIVES: Final = timedelta(seconds=30)


def pause_after(hints: int, *, first: timedelta) -> timedelta:
    """Return how long a hint is left alone, when it was the first, second … one."""
    doublings = min(max(hints - 1, 0), DOUBLINGS)
    return min(first * 2**doublings, LONGEST_PAUSE) if doublings else first
