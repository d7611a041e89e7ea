"""Workers that left without a word."""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from orchestrator.ledger.healing.rows import Guard
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now
from orchestrator.models import LaneWorker

#: Kept so long after its last report: "no worker since 14:02" helps more than "no worker".
FORGOTTEN_AFTER = timedelta(hours=24)


def silent_workers(guard: Guard) -> int:
    """Forget workers that have been silent for a day."""
    # A look first: there is nothing to do but once a day.
    if not LaneWorker.objects.filter(seen_at__lt=Now() - FORGOTTEN_AFTER).exists():
        return 0

    def work() -> int:
        if not guard():
            return 0
        return LaneWorker.objects.filter(seen_at__lt=database_now() - FORGOTTEN_AFTER).delete()[0]

    return in_transaction(work)
