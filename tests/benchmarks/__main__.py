"""What `make bench` runs: the servers, then each benchmark in a process of its own, then nothing left behind."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import redis
from cryptography.fernet import Fernet

from orchestrator.embedded.home import Home
from orchestrator.embedded.provider import choose_provider
from tests.benchmarks.figures import header
from tests.support.processes import Process
from tests.support.provision import MARK, end_left_over, end_on_term, provided
from tests.support.waiting import eventually

#: In the order in which they run; what takes longest comes last.
NAMES = (
    "message_size",
    "chain40",
    "fanout500",
    "layered10x50",
    "runs200",
    "start_latency",
    "task_cost",
    "lock_handover",
    "shell_tasks",
    "log_follow",
    "cancel",
    "rules1000",
    "layout",
    "run_page",
    "pages",
    "webhooks",
    "event_latency",
    "kafka_ingest",
    "rabbitmq_ingest",
    "embedded_fanout500",
    "dag10000",
)
EMBEDDED = frozenset({"embedded_fanout500"})
#: What needs more than PostgreSQL and Redis.
SERVERS = {
    "run_page": {"Chromium"},
    "kafka_ingest": {"Kafka"},
    "rabbitmq_ingest": {"RabbitMQ"},
    "event_latency": {"RabbitMQ", "Kafka"},
}
#: Redis databases of ours and of the plain Celery app beside it.
OURS, RAW = 8, 9


def main(arguments: list[str]) -> int:
    """Run one benchmark or all; return 0 if each ran and reached what it must reach."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args(arguments)
    names = (given.only,) if given.only else NAMES
    end_on_term()
    os.environ[MARK] = secrets.token_hex(8)
    code = 0
    try:
        print(header(), flush=True)
        production = [name for name in names if name not in EMBEDDED]
        # With fsync: figures without it would promise what no production database keeps.
        servers = {"PostgreSQL", "Redis"}.union(*(SERVERS.get(name, set()) for name in production))
        with provided(durable=True, only=servers) if production else contextlib.nullcontext():
            for name in names:
                code = _run(name, given.repeat) or code
    except KeyboardInterrupt:
        code = 130
    finally:
        for line in end_left_over():
            print(f"left running by a benchmark, now ended: {line}", file=sys.stderr, flush=True)
    return code


def _run(name: str, repeat: int) -> int:
    with tempfile.TemporaryDirectory(prefix="upbeat-bench-") as directory:
        prepared = _embedded if name in EMBEDDED else _production
        with prepared(Path(directory), name) as environ:
            common = {
                "UPBEAT_HOME": f"{directory}/home",
                "UPBEAT_SECRET_KEY": secrets.token_urlsafe(48),
                "UPBEAT_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
                "UPBEAT_ENV": "bench",
                "UPBEAT_WORKER_EVENTS": "0",
                # Calls are counted as in production, and never refused.
                "UPBEAT_RATE_PER_MINUTE": "1000000",
                "UPBEAT_METRICS_DIR": f"{directory}/metrics",
                "UPBEAT_LOG_LEVEL": "INFO",
            }
            for made in ("home", "metrics"):
                (Path(directory) / made).mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tests.benchmarks.child", name, str(repeat), directory]
            return subprocess.run(command, env={**os.environ, **common, **environ}, check=False).returncode


@contextlib.contextmanager
def _production(directory: Path, name: str) -> Iterator[dict[str, str]]:
    """PostgreSQL with an empty database, and Redis as broker and for the counters of chords."""
    server = os.environ["UPBEAT_TEST_DATABASE_URL"]
    database = f"bench_{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database if exists {database} with (force)")
        connection.execute(f"create database {database}")
    broker = os.environ["UPBEAT_TEST_REDIS_URL"].rpartition("/")[0]
    for number in (OURS, RAW):
        with redis.Redis.from_url(f"{broker}/{number}") as client:
            client.flushdb()
    yield {
        "UPBEAT_PROFILE": "production",
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.production",
        "UPBEAT_DATABASE_URL": f"{server.rpartition('/')[0]}/{database}",
        "UPBEAT_BROKER_URL": f"{broker}/{OURS}",
        "UPBEAT_BENCH_RAW_URL": f"{broker}/{RAW}",
    }


@contextlib.contextmanager
def _embedded(directory: Path, name: str) -> Iterator[dict[str, str]]:
    """SQLite, and the server that comes as a wheel."""
    home = Home(directory / "home")
    home.broker.mkdir(parents=True)
    provider = choose_provider({}, home)
    command = provider.command()
    assert command is not None, "a server that is given by URL is not this profile"
    with Process("broker", command, environ={}, log=directory / "broker.log"):
        eventually(provider.answers, saying="the wheel's server answers")
        yield {
            "UPBEAT_PROFILE": "embedded",
            "DJANGO_SETTINGS_MODULE": "orchestrator.settings.embedded",
            "UPBEAT_DATABASE_URL": "",
            "UPBEAT_BROKER_URL": provider.url,
            "UPBEAT_BENCH_RAW_URL": f"{provider.url.rpartition('/')[0]}/{RAW}",
        }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
