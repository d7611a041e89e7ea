"""Migrations take the time that they need: the limits that guard the ledger's transactions would end them half-way.

Building an index over millions of rows takes minutes, and on a slow machine the work between two statements of a
migration takes longer than a transaction may be idle.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

#: `lock_timeout` stays: a migration that does not get its lock is to be tried again, not to hold up everybody else.
LIMITS: Final = ("idle_in_transaction_session_timeout", "statement_timeout")


def watch(sender: Any) -> None:
    """Lift the limits before the migrations of an app's database, and set them again after. Safe to call twice."""
    pre_migrate.connect(_lift, sender=sender, dispatch_uid="upbeat.lift_limits")
    post_migrate.connect(_restore, sender=sender, dispatch_uid="upbeat.restore_limits")


def _lift(using: str, **_: Any) -> None:
    _execute(using, "set {} = 0")


def _restore(using: str, **_: Any) -> None:
    _execute(using, "reset {}")


def _execute(using: str, statement: str) -> None:
    if connections[using].vendor != "postgresql":
        return
    with connections[using].cursor() as cursor:
        for limit in LIMITS:
            cursor.execute(statement.format(limit))
