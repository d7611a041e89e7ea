"""The statements of the batch writer, side by side for the two databases; same names, same meaning."""

from __future__ import annotations

from types import ModuleType

from django.db import connection

from triggers.ingest.statements import postgresql, sqlite


def statements() -> ModuleType:
    """Return the statements of this process's database."""
    return postgresql if connection.vendor == "postgresql" else sqlite
