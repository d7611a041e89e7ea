"""Facts that siblings append: a node lost, a source stalled, a job paused; each with its cause."""

from __future__ import annotations

from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, record


def record_transition(
    *,
    subject: str,
    subject_id: int,
    to_state: str,
    from_state: str = "",
    run_id: int | None = None,
    reason: str = "",
    cause: str = "",
    by: str = "",
) -> None:
    """Append one fact, inside the caller's transaction if there is one."""
    in_transaction(
        lambda: record(
            subject=subject,
            subject_id=subject_id,
            run_id=run_id,
            old=from_state,
            new=to_state,
            now=database_now(),
            reason=reason,
            cause=cause,
            by=by,
        )
    )
