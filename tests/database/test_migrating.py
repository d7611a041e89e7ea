from __future__ import annotations

import pytest
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connection

from orchestrator.migrating import LIMITS

pytestmark = [pytest.mark.django_db, pytest.mark.postgresql]


def limits() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"select {', '.join(f'current_setting({name!r})' for name in LIMITS)}")
        return list(cursor.fetchone())


def test_migrations_are_not_ended_by_the_limits_of_the_ledgers_transactions():
    emit_pre_migrate_signal(verbosity=0, interactive=False, db="default")
    during = limits()
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")

    assert during == ["0", "0"]
    assert "0" not in limits()
