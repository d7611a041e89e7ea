"""Transactions of the ledger for the siblings: one that is repeated when it fell to a deadlock, and its clock."""

from __future__ import annotations

from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now

__all__ = ["database_now", "in_transaction"]
