"""Which worker processes take work from which lanes: they say so every few seconds, and who is silent does not live.

`planning.patience.WORKER_LIVES` says how long a report is good for, by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from django.db.models.functions import Now

from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import LaneWorker

#: How often a worker reports.
REPORT_SECONDS: Final = 10.0


def report_lanes(worker: str, lanes: Collection[str], slots: int) -> None:
    """Say that a worker lives, takes from these lanes, and runs so many attempts at once. Safe to call twice.

    One statement; a lane that the worker no longer takes from goes silent by itself.
    """
    rows = [
        LaneWorker(lane=lane[:63], worker=worker[:200], slots=max(1, slots), seen_at=Now())
        for lane in sorted(set(lanes))
    ]
    in_transaction(
        lambda: LaneWorker.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["lane", "worker"], update_fields=["slots", "seen_at"]
        )
    )


def forget(worker: str) -> None:
    """Say that a worker takes no more work. Safe to call twice."""
    in_transaction(lambda: LaneWorker.objects.filter(worker=worker[:200]).delete())
