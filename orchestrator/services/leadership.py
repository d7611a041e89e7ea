"""Lead one role among several processes: for the reconciler and the scheduler of beat."""

from __future__ import annotations

from orchestrator.ledger.leadership import RENEW_SECONDS, Leadership

__all__ = ["RENEW_SECONDS", "Leadership"]
