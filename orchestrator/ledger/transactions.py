"""One ledger transaction: repeated when the database takes it back, outcomes known only after its commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from django.db import InterfaceError, OperationalError, transaction

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

#: A victim of a deadlock or a lock timeout is repeated so often; each try is a new transaction.
TRIES = 8


def in_transaction(work: Callable[[], Value]) -> Value:
    """Run `work` in one transaction and return its value; repeat it when it fell to a deadlock or lock timeout.

    `work` must not publish, and must be safe to run again from the start. Inside an open transaction it runs once,
    as part of that one.
    """
    connection = transaction.get_connection()
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
