"""Counts of runs, taken after the commit: a transaction that is repeated or rolled back counts nothing."""

from __future__ import annotations

from django.db import transaction

from orchestrator.states import RunState


def count_started(runs: int = 1) -> None:
    """Count runs that this transaction has recorded."""
    transaction.on_commit(lambda: _count_started(runs), robust=True)


def count_ended(state: RunState) -> None:
    """Count a run that this transaction has ended."""
    transaction.on_commit(lambda: _count_ended(state), robust=True)


# Imported late: every command loads the ledger, few of them count, and each process that may count makes files.
def _count_started(runs: int) -> None:
    from orchestrator import metrics

    metrics.RUNS_STARTED.inc(runs)


def _count_ended(state: RunState) -> None:
    from orchestrator import metrics

    metrics.RUNS_ENDED.labels(state.value).inc()
