"""PostgreSQL, and RabbitMQ with Redis for chord counters, or Redis alone; all given by URL."""

from __future__ import annotations

from orchestrator.errors import Misconfigured
from orchestrator.settings.base import *  # noqa: F403  settings are layered by import, as Django documents
from orchestrator.settings.base import OPTIONS
from orchestrator.settings.celery import celery_settings
from orchestrator.settings.env import database

for _name in ("UPBEAT_SECRET_KEY", "UPBEAT_DATABASE_URL", "UPBEAT_BROKER_URL"):
    if not OPTIONS[_name]:
        raise Misconfigured(f"{_name} is not set; the production profile needs it (or {_name}_FILE)")

DATABASES = {"default": database(OPTIONS.database_url, pool=OPTIONS.database_pool)}
RESULT_URL = OPTIONS.result_url or (OPTIONS.broker_url if OPTIONS.broker_url.startswith("redis") else "")
CELERY = celery_settings(OPTIONS.broker_url, RESULT_URL)
RECONCILE_SECONDS = OPTIONS.reconcile_seconds or 5.0

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_HTTPONLY = True
