"""Tests: servers by UPBEAT_TEST_…_URL alone; without one of a database, SQLite."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("UPBEAT_HOME", tempfile.mkdtemp(prefix="upbeat-test-"))

from orchestrator.settings.base import *  # noqa: F403  settings are layered by import, as Django documents
from orchestrator.settings.base import OPTIONS
from orchestrator.settings.celery import celery_settings
from orchestrator.settings.env import database

SECRET_KEY = "for-tests-only"
# WhiteNoise warns where it is not, and warnings are errors here.
(OPTIONS.home_path / "static").mkdir(parents=True, exist_ok=True)
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

_url = os.environ.get("UPBEAT_TEST_DATABASE_URL", "")
DATABASES = {"default": database(_url or f"sqlite://{OPTIONS.home_path / 'test.sqlite3'}")}
if not _url:
    # A file, not memory: threads of one test must see one database.
    DATABASES["default"]["TEST"] = {"NAME": str(OPTIONS.home_path / "test.sqlite3")}
BROKER_URL = os.environ.get("UPBEAT_TEST_REDIS_URL", "redis://127.0.0.1:1/0")
if _worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw"):
    # Test processes side by side must not see one another's messages.
    BROKER_URL = f"{BROKER_URL.rpartition('/')[0]}/{8 + int(_worker)}"
RESULT_URL = BROKER_URL
CELERY = celery_settings(BROKER_URL, RESULT_URL)
RECONCILE_SECONDS = OPTIONS.reconcile_seconds or 0.5
