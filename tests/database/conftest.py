"""Fixtures of the tests on a real database."""

from __future__ import annotations

import pytest

from orchestrator.ledger import versions
from orchestrator.services import attempts
from tests.support.simulation import broker

__all__ = ["broker"]


@pytest.fixture(autouse=True)
def _forget_versions() -> None:
    """SQLite gives ids out again after a rollback; what a process keeps by id would be another test's."""
    versions._cache.clear()
    attempts.run_facts.cache_clear()
    attempts._results_read.cache_clear()
