"""The statements of the hot path, side by side for the two databases."""

from __future__ import annotations

from types import ModuleType

from django.db import connection

from orchestrator.ledger.statements import postgresql, sqlite


def statements() -> ModuleType:
    """Return the statements of this process's database."""
    return postgresql if connection.vendor == "postgresql" else sqlite
