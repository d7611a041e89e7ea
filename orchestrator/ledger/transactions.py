"""One ledger transaction: repeated when the database takes it back, outcomes known only after its commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from django.db import InterfaceError, OperationalError, connection, transaction

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

#: A victim of a deadlock or a lock timeout is repeated so often; each try is a new transaction.
TRIES = 8

_kept = threading.local()


def kept_cursor() -> Any:
    """Return this thread's cursor for statements that stand alone, on its connection as it is now.

    A cursor costs as much to make as a tenth of its statement, and each of these reads its rows at once.
    """
    if connection.queries_logged:
        return connection.cursor()  # of another kind, which writes down what it executes
    cursor = getattr(_kept, "cursor", None)
    if cursor is None or connection.connection is None or _kept.connection is not connection.connection:
        cursor = connection.cursor()
        _kept.cursor, _kept.connection = cursor, connection.connection
    return cursor


def in_transaction(work: Callable[[], Value]) -> Value:
    """Run `work` in one transaction and return its value; repeat it when it fell to a deadlock or lock timeout.

    `work` must not publish, and must be safe to run again from the start. Inside an open transaction it runs once,
    as part of that one.
    """
    if connection.in_atomic_block:
        return work()
    for attempt in range(1, TRIES + 1):
        try:
            with transaction.atomic():
                return work()
        except (OperationalError, InterfaceError) as error:
            # A connection that died while idle (the server was restarted) shows only now: once more on a new one.
            died = attempt == 1 and connection.connection is not None and not connection.is_usable()
            if attempt == TRIES or not (died or is_conflict(error)):
                raise
            if died:
                connection.close()
            logger.info("ledger transaction repeated", extra={"try": attempt, "error": str(error).splitlines()[0]})
            # Victims of one deadlock must not meet again in step.
            time.sleep(0.005 * attempt * (1 + id(work) % 7 / 7))
    raise AssertionError("unreachable")


def is_conflict(error: OperationalError | InterfaceError) -> bool:
    """Whether the database took the transaction back for the sake of another."""
    cause = error.__cause__
    return isinstance(
        cause, (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable, psycopg.errors.SerializationFailure)
    ) or "database is locked" in str(error)
