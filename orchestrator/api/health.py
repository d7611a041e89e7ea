"""Whether this process can do its work: each dependency asked at once, none for longer than two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from orchestrator.errors import Misconfigured
from orchestrator.logs import masked
from orchestrator.registry import Finding
from orchestrator.selectors.overview import overview
from orchestrator.store import store_of_process

LONGEST_SECONDS: Final = 2.0
#: A server that refuses connections is asked so long, one that does not answer at all.
CONNECT_SECONDS: Final = 1.5


class NotReady(Exception):
    """A dependency answers, but not as it must."""


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        cursor.fetchone()


_migrated = False


def check_migrations() -> None:
    """Once applied they stay applied, and looking costs a hundred milliseconds."""
    global _migrated
    if _migrated:
        return
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        raise NotReady(f"{len(missing)} migrations are not applied, first {missing[0][0]}")
    _migrated = True


def check_broker() -> None:
    _check_server(settings.CELERY["broker_url"])


def check_results() -> None:
    if url := settings.CELERY["result_backend"]:
        _check_server(url)


def check_store() -> None:
    """Write, read and remove something: a full disk or a wrong key is found before a task finds it."""
    store_of_process().probe()


def _check_server(url: str) -> None:
    if url.startswith("redis"):
        import redis

        client = redis.Redis.from_url(
            url, socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS, retry=None
        )
        try:
            client.ping()
        finally:
            client.close()
    else:
        from kombu import Connection

        with Connection(url, connect_timeout=CONNECT_SECONDS) as broker:
            broker.connect()


_CHECKS: Final[dict[str, tuple[Callable[[], None], str]]] = {
    "database": (check_database, "Start the database, or correct UPBEAT_DATABASE_URL."),
    "migrations": (check_migrations, "Run `python manage.py migrate`."),
    "broker": (check_broker, "Start the broker, or correct UPBEAT_BROKER_URL."),
    "results": (check_results, "Start the result backend, or correct UPBEAT_RESULT_URL."),
    "store": (
        check_store,
        "Make UPBEAT_STORE_URL a directory that this process may write, with space left, or a bucket with its endpoint, "
        "region and credentials.",
    ),
}
_threads: dict[str, ThreadPoolExecutor] = {}
_asked: dict[str, Future[float]] = {}


def readiness() -> list[Finding]:
    """Ask every dependency, all at once; takes two seconds at the longest."""
    # Importing the client of a bucket takes a second, once, which says nothing about the bucket.
    with suppress(Misconfigured):
        store_of_process()
    deadline = time.monotonic() + LONGEST_SECONDS
    asked = {name: _ask(name, check) for name, (check, _) in _CHECKS.items()}
    return [_finding(name, future, deadline) for name, future in asked.items()]


def _ask(name: str, check: Callable[[], None]) -> Future[float]:
    """Start a check on its thread; one that still hangs is not started again, so threads never pile up."""
    running = _asked.get(name)
    if running is not None and not running.done():
        return running
    threads = _threads.setdefault(name, ThreadPoolExecutor(1, f"ready-{name}"))
    future = _asked[name] = threads.submit(_timed, check)
    return future


def _timed(check: Callable[[], None]) -> float:
    started = time.perf_counter()
    try:
        check()
    finally:
        # A probe's own connection must not outlive its server, nor be one of the pool's for ever.
        connection.close()
    return (time.perf_counter() - started) * 1000


def _finding(name: str, future: Future[float], deadline: float) -> Finding:
    hint = _CHECKS[name][1]
    try:
        return Finding(name, ok=True, milliseconds=round(future.result(max(0.0, deadline - time.monotonic())), 1))
    except NotInTime:
        return Finding(name, ok=False, detail=f"no answer within {LONGEST_SECONDS:g} s", hint=hint)
    except Exception as error:  # whatever a client library throws, the dependency is not ready
        return Finding(name, ok=False, detail=masked(f"{type(error).__name__}: {error}".splitlines()[0]), hint=hint)


class LedgerCollector:
    """Gauges that are read from the ledger at each scrape: no process could count them."""

    def collect(self) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        try:
            now = overview()
        except Exception:  # the counters are worth their answer while the database is away
            yield GaugeMetricFamily("upbeat_ledger_reachable", _REACHABLE, value=0)
            return
        yield GaugeMetricFamily("upbeat_ledger_reachable", _REACHABLE, value=1)
        yield GaugeMetricFamily(
            "upbeat_oldest_ready_task_seconds",
            "Seconds that the oldest ready task has waited for a worker; 0 if none waits.",
            value=now.oldest_ready_seconds,
        )
        yield GaugeMetricFamily("upbeat_ready_tasks", "Tasks that may be claimed.", value=now.ready_tasks)
        yield GaugeMetricFamily("upbeat_running_tasks", "Tasks that an attempt holds.", value=now.running_tasks)
        open_runs = GaugeMetricFamily("upbeat_open_runs", "Runs that have not ended, by state.", labels=["state"])
        for state, count in now.open_runs.items():
            open_runs.add_metric([state], count)
        yield open_runs


_REACHABLE: Final = "1 if the ledger's database answered this scrape, else 0."
