"""System checks that name contradictory or unsafe settings, each with a stable id and a hint."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning, register

from orchestrator.conf import options
from orchestrator.errors import Misconfigured


def _profile() -> str:
    # Settings are chosen by module; the option may be unset or, in tests, say otherwise.
    return settings.SETTINGS_MODULE.rpartition(".")[2]


@register(checks.Tags.compatibility)
def check_production(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """What the production profile must not have."""
    if _profile() != "production":
        return []
    found: list[CheckMessage] = []
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        found.append(
            Error(
                "The production profile runs on SQLite, which has one writer and one host.",
                hint="Set UPBEAT_DATABASE_URL to a postgresql:// URL, or UPBEAT_PROFILE to embedded.",
                id="upbeat.E001",
            )
        )
    if settings.DEBUG:
        found.append(
            Error(
                "DEBUG is on in the production profile: pages show settings, and queries pile up in memory.",
                hint="Remove DEBUG from your settings module.",
                id="upbeat.E002",
            )
        )
    if not options().encryption_keys:
        found.append(
            Warning(
                "No encryption keys: secrets can be neither stored nor read.",
                hint="Set UPBEAT_ENCRYPTION_KEYS (or UPBEAT_ENCRYPTION_KEYS_FILE) to a Fernet key.",
                id="upbeat.W001",
            )
        )
    if options().rate_per_minute == 0:
        found.append(
            Warning(
                "API calls are not limited in the production profile.",
                hint="Set UPBEAT_RATE_PER_MINUTE to what a caller needs; the default is 600.",
                id="upbeat.W002",
            )
        )
    if not options().allowed_hosts:
        found.append(
            Warning(
                "The web process answers to localhost only.",
                hint="Set UPBEAT_ALLOWED_HOSTS to the names by which it is reached.",
                id="upbeat.W003",
            )
        )
    if options().profile == "embedded" and "UPBEAT_PROFILE" not in os.environ:
        found.append(
            Warning(
                "Settings are those of production, but UPBEAT_PROFILE is unset and reads as embedded.",
                hint="Set UPBEAT_PROFILE to production.",
                id="upbeat.W004",
            )
        )
    return found


@register(checks.Tags.security)
def check_secret_key(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A guessable secret key forges sign-ins; the embedded profile's stand-in must answer no requests."""
    if _profile() == "test":
        return []
    given: str = options().secret_key
    if not given:
        # Commands run without; the web process is told by its server's name.
        if "uvicorn" in sys.argv[0]:
            return [
                Error(
                    "The web process has no secret key.",
                    hint="Set UPBEAT_SECRET_KEY or UPBEAT_SECRET_KEY_FILE; `make demo` makes one by itself.",
                    id="upbeat.E003",
                )
            ]
        return []
    if len(given) < 32 or len(set(given)) < 8:
        severe = Error if _profile() == "production" else Warning
        return [
            severe(
                "The secret key is short or monotonous, so it can be guessed.",
                hint="Set UPBEAT_SECRET_KEY to 50 random characters.",
                id="upbeat.E004" if severe is Error else "upbeat.W005",
            )
        ]
    return []


@register(checks.Tags.compatibility)
def check_broker(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """RabbitMQ alone has no chord counters."""
    celery = settings.CELERY
    if celery["broker_url"].startswith("amqp") and not celery["result_backend"]:
        return [
            Warning(
                "RabbitMQ without a result backend: fan-outs run without chords, which is slower.",
                hint="Set UPBEAT_RESULT_URL to a redis:// URL.",
                id="upbeat.W006",
            )
        ]
    return []


@register(checks.Tags.security)
def check_encryption_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Keys that are no keys are found at start, not at the first secret."""
    if not options().encryption_keys:
        return []
    from orchestrator.services.secrets import encrypt

    try:
        encrypt("")
    except Misconfigured as error:
        return [Error(error.message, hint="Make one with Fernet.generate_key().", id="upbeat.E005")]
    return []


@register(checks.Tags.compatibility)
def check_lease(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A lease shorter than a round of the reconciler or the database's lock timeout is lost without a fault."""
    if options().lease_seconds < 3:
        return [
            Warning(
                f"UPBEAT_LEASE_SECONDS is {options().lease_seconds:g}: a short pause of a worker costs its attempts.",
                hint="Leave it at 15, or above 3.",
                id="upbeat.W007",
            )
        ]
    return []


@register(checks.Tags.compatibility)
def check_store(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A store that cannot be meant is found at start, not by the first log."""
    from orchestrator.store import check_location

    try:
        check_location(options().store_location)
    except Misconfigured as error:
        return [
            Error(
                error.message,
                hint="Set UPBEAT_STORE_URL to a directory or to s3://bucket/prefix?endpoint=…&region=….",
                id="upbeat.E006",
            )
        ]
    if bool(options().store_access_key_id) != bool(options().store_secret_access_key):
        return [
            Error(
                "Of UPBEAT_STORE_ACCESS_KEY_ID and UPBEAT_STORE_SECRET_ACCESS_KEY one is set without the other.",
                hint="Set both, or neither and let AWS's own variables speak.",
                id="upbeat.E007",
            )
        ]
    return []


def refuse_unsafe_settings() -> None:
    """Raise Misconfigured with every error that our checks find; for processes that Django does not check."""
    asked = (check_production, check_secret_key, check_broker, check_encryption_keys, check_store)
    serious = [message for check in asked for message in check(None) if message.is_serious()]
    if serious:
        raise Misconfigured(" ".join(f"{message.id}: {message.msg} {message.hint}" for message in serious))
