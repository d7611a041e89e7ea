"""Why is it waiting? Answered from the ledger, in plain words, the most binding reason first."""

from __future__ import annotations

from orchestrator.selectors.waiting.reasons import WaitReason
from orchestrator.selectors.waiting.runs import why_waiting_run
from orchestrator.selectors.waiting.tasks import why_waiting_task

__all__ = ["WaitReason", "why_waiting_run", "why_waiting_task"]
