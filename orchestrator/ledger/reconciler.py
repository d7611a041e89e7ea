"""Makes true what hints only make fast: every step finds what a lost message, a dead worker or a passed moment left.

All steps are set-based, take at most BATCH rows, skip what another transaction holds, and end in the same idempotent
functions as the fast path. Each returns how much it healed; one that returns a full batch is run again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from django.conf import settings

from orchestrator.ledger.healing.grants import free_locks, released_locks, unclaimed_grants
from orchestrator.ledger.healing.hints import lost_hints
from orchestrator.ledger.healing.lanes import silent_workers
from orchestrator.ledger.healing.leases import expired_leases
from orchestrator.ledger.healing.rows import BATCH, Guard
from orchestrator.ledger.healing.runs import held, stalled_turns, stuck, unfinished, unlaunched, unplanned
from orchestrator.ledger.healing.timers import (
    attempt_deadlines,
    due_attempts,
    queue_timeouts,
    run_deadlines,
    run_expiries,
)
from orchestrator.states import TaskState


@dataclass(slots=True)
class Healed:
    """What one round set right, by cause, and the hints that it published."""

    by_cause: dict[str, int] = field(default_factory=dict)

    def add(self, cause: str, count: int) -> None:
        if count:
            self.by_cause[cause] = self.by_cause.get(cause, 0) + count


def timers(guard: Guard) -> Healed:
    """Release what is due: retries, deferred attempts, their deadlines and those of runs. Every half second."""
    healed = Healed()
    _repeat(healed, "attempt_timed_out", lambda: attempt_deadlines(guard, TaskState.DEFERRED), counted=False)
    _repeat(healed, "attempt_due", lambda: due_attempts(guard), counted=False)
    _repeat(healed, "run_timed_out", lambda: run_deadlines(guard), counted=False)
    _repeat(healed, "run_expired", lambda: run_expiries(guard), counted=False)
    return healed


def round_of(guard: Guard, *, may_expire: bool) -> Healed:
    """One round of healing. `may_expire`: the database has been reachable without a break for one lease.

    `guard` is asked at the start of each transaction; once it says no, nothing more is written.
    """
    healed = Healed()
    if may_expire:
        _repeat(healed, "lease_expired", lambda: expired_leases(guard))
    _repeat(healed, "lock_released", lambda: released_locks(guard))
    _repeat(healed, "unplanned", lambda: unplanned(guard))
    _repeat(healed, "lost_hint", lambda: lost_hints(guard))
    _repeat(healed, "grant_unclaimed", lambda: unclaimed_grants(guard))
    _repeat(healed, "lock_free", lambda: free_locks(guard))
    _repeat(healed, "attempt_timed_out", lambda: attempt_deadlines(guard, TaskState.READY), counted=False)
    _repeat(healed, "queue_timeout", lambda: queue_timeouts(guard), counted=False)
    _repeat(healed, "unlaunched", lambda: unlaunched(guard))
    _repeat(healed, "unlaunched", lambda: held(guard))
    _repeat(healed, "turn_stalled", lambda: stalled_turns(guard))
    _repeat(healed, "unfinished", lambda: unfinished(guard))
    _repeat(healed, "silent_worker", lambda: silent_workers(guard), counted=False)
    _repeat(healed, "stuck", lambda: stuck(guard))
    return healed


def _repeat(healed: Healed, cause: str, step: Callable[[], int], *, counted: bool = True) -> None:
    while True:
        count = step()
        if counted:
            healed.add(cause, count)
        if count < BATCH:
            return


def lag_seconds() -> float:
    """Pause between two rounds, by profile."""
    return float(settings.RECONCILE_SECONDS)
