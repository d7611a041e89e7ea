"""Database, broker and result store, once they answer: which version, and how near they are to a limit.

An old version is a line and no fault: the ledger survives what it does.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.db import connection

from orchestrator.diagnosis.versions import said_of
from orchestrator.registry import Finding

SECONDS: Final = 2.0
#: Of the connections that the server allows; each process of ours may open several more when it starts.
CONNECTIONS_USED: Final = 0.9


def database() -> list[Finding]:
    if connection.vendor != "postgresql":
        import sqlite3

        return [Finding("database version", ok=True, detail=said_of("SQLite", sqlite3.sqlite_version))]
    with connection.cursor() as cursor:
        cursor.execute(
            "select current_setting('server_version'), current_setting('max_connections')::int,"
            " (select count(*)::int from pg_stat_activity where backend_type = 'client backend')"
        )
        version, most, used = cursor.fetchone()
    return [
        Finding("database version", ok=True, detail=said_of("PostgreSQL", version.split()[0])),
        Finding(
            "database connections",
            ok=used < most * CONNECTIONS_USED,
            detail=f"{used} of {most}",
            hint="Raise max_connections, or run fewer processes, or give them pools (UPBEAT_DATABASE_POOL).",
        ),
    ]


def broker() -> list[Finding]:
    url = settings.CELERY["broker_url"]
    if url.startswith("redis"):
        return _redis("broker", url)
    from kombu import Connection

    with Connection(url, connect_timeout=SECONDS) as client:
        client.connect()
        version = str(client.connection.server_properties.get("version", "0"))
    return [Finding("broker version", ok=True, detail=said_of("RabbitMQ", version))]


def results() -> list[Finding]:
    """The result store, where it is not the broker as well."""
    url = settings.CELERY["result_backend"]
    if not url or url == settings.CELERY["broker_url"]:
        return []
    return _redis("results", url)


def _redis(role: str, url: str) -> list[Finding]:
    import redis

    with redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
        server: dict[str, Any] = client.info("server")
        memory: dict[str, Any] = client.info("memory")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    return [
        Finding(f"{role} version", ok=True, detail=said_of("Redis", str(server["redis_version"]))),
        Finding(
            f"{role} eviction",
            ok=policy == "noeviction",
            detail=policy,
            hint="Set maxmemory-policy to noeviction: a key that is evicted is a message or a chord's count that is lost.",
        ),
    ]
