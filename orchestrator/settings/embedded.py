"""No servers to install: SQLite, and a Redis-protocol server that comes as a wheel.

The launcher gives the broker's URL and the generated keys; a single command such as `validate` runs without.
"""

from __future__ import annotations

from orchestrator.settings.base import *  # noqa: F403  settings are layered by import, as Django documents
from orchestrator.settings.base import OPTIONS
from orchestrator.settings.celery import celery_settings
from orchestrator.settings.env import database

SECRET_KEY = OPTIONS.secret_key or "only-for-commands-that-answer-no-requests"

DATABASES = {
    "default": database(
        OPTIONS.database_url or f"sqlite://{OPTIONS.home_path / 'upbeat.sqlite3'}", pool=OPTIONS.database_pool
    )
}
BROKER_URL = OPTIONS.broker_url or "redis://127.0.0.1:6379/0"
RESULT_URL = OPTIONS.result_url or (BROKER_URL if BROKER_URL.startswith("redis") else "")
CELERY = celery_settings(BROKER_URL, RESULT_URL)
RECONCILE_SECONDS = OPTIONS.reconcile_seconds or 2.0
