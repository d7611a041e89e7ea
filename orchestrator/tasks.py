"""Celery tasks of the orchestrator: thin, ids in, one service each. All run in the control lane."""

from __future__ import annotations

from orchestrator.celery import LedgerTask, app
from orchestrator.contracts import ADVANCE, EXPAND, LAUNCH_RUNS
from orchestrator.services import runs


@app.task(name=ADVANCE, base=LedgerTask, shared=False)
def advance(run_id: int) -> None:
    runs.advance_run(run_id)


@app.task(name=EXPAND, base=LedgerTask, shared=False)
def expand(fragment_id: int, low: int, high: int) -> None:
    runs.expand_fragment(fragment_id, low, high)


@app.task(name=LAUNCH_RUNS, base=LedgerTask, shared=False)
def launch_runs(run_ids: list[int]) -> None:
    runs.launch_runs(run_ids)
