"""Fixtures of the tests on a real database."""

from __future__ import annotations

import pytest
from django.db import connection

from orchestrator.ledger import versions
from orchestrator.services import attempts, batches
from tests.support.simulation import broker
from triggers import rules_cache

__all__ = ["broker"]


@pytest.fixture(autouse=True)
def _forget_versions() -> None:
    """SQLite gives ids out again after a rollback; what a process keeps by id would be another test's."""
    versions._cache.clear()
    batches._cache.clear()
    rules_cache.shared.forget()
    attempts.run_facts.cache_clear()
    attempts._results_read.cache_clear()


@pytest.fixture(autouse=True)
def _wait_for_slow_tests(request: pytest.FixtureRequest) -> None:
    """The transaction around a test may be idle for longer than any of ours; PostgreSQL would end it after 3 s."""
    mark = request.node.get_closest_marker("django_db")
    if mark is None or mark.kwargs.get("transaction") or connection.vendor != "postgresql":
        return
    request.getfixturevalue("db")
    with connection.cursor() as cursor:
        cursor.execute("set local idle_in_transaction_session_timeout = 0")
