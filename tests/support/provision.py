"""Gives a run of tests or benchmarks its servers, by URL, and takes back all that it started.

For each server, and for the browser by its path: what its variable names if that is set; else one of ours, its Debian
package installed first if that is possible; else, for a server, a container; else one line that says what to do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from tests.support import chromium, compose, containers, kafka, packages, services

#: Every process started below a run carries this, with the run's own value, so that none can hide.
MARK = "UPBEAT_TEST_RUN"
#: By what a file of tests asks for a server that most do without. The bare name of Kafka's fixture is an option, too.
SELDOM = {
    "Kafka": (b"kafka_bootstrap: str", b"UPBEAT_TEST_KAFKA_URL"),
    "Chromium": (b"from playwright", chromium.VARIABLE.encode()),
    "docker-compose": (compose.VARIABLE.encode(), b"compose.VARIABLE"),
}


class Provided(Protocol):
    """What a test is given by its URL, and what is taken back."""

    @property
    def url(self) -> str: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Need:
    """A server that tests need: how it is called, found, started and installed."""

    name: str
    variable: str
    packages: tuple[str, ...]
    look: Callable[[], object]
    start: Callable[[], Provided]


def needs(*, durable: bool = False) -> tuple[Need, ...]:
    """The servers in the order of the time they take to start."""
    return (
        Need("RabbitMQ", "UPBEAT_TEST_RABBITMQ_URL", ("rabbitmq-server",), _rabbitmq_there, services.start_rabbitmq),
        Need("Kafka", "UPBEAT_TEST_KAFKA_URL", ("default-jre-headless", "maven"), kafka.look, kafka.start_kafka),
        Need(
            "PostgreSQL",
            "UPBEAT_TEST_DATABASE_URL",
            ("postgresql",),
            lambda: services.program("initdb", "/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"),
            partial(services.start_postgres, durable=durable),
        ),
        Need(
            "Redis",
            "UPBEAT_TEST_REDIS_URL",
            ("redis-server",),
            lambda: services.program("redis-server"),
            services.start_redis,
        ),
        Need("Chromium", chromium.VARIABLE, chromium.PACKAGES, chromium.find, chromium.find),
        Need("docker-compose", compose.VARIABLE, compose.PACKAGES, compose.find, compose.find),
    )


def needed_by(arguments: Sequence[str]) -> set[str]:
    """The names of the servers that pytest's `arguments` can need.

    Kafka and Chromium only where a chosen file asks for them; the others start in a moment or are asked for by nearly
    every file.
    """
    chosen = [Path(argument.partition("::")[0]) for argument in arguments]
    folders = [path for path in chosen if path.exists()] or [Path("tests")]
    files = [file for path in folders for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
    texts = [file.read_bytes() for file in files]
    unasked = {name for name, words in SELDOM.items() if not any(word in text for text in texts for word in words)}
    return {need.name for need in needs()} - unasked


def _rabbitmq_there() -> None:
    services.program("rabbitmq-server-plain", "/usr/lib/rabbitmq/bin/rabbitmq-server")
    services.program("epmd", "/usr/lib/erlang/erts-*/bin/epmd")


@contextlib.contextmanager
def provided(*, durable: bool = False, only: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Set the URL of each server in the environment; on leaving, stop what was started and end what was left over.

    `only` names the servers that are needed, default all.

    Raises SystemExit with a line per server that cannot be had.
    """
    os.environ[MARK] = secrets.token_hex(8)
    needed = [need for need in needs(durable=durable) if not only or need.name in only]
    wanted = [need for need in needed if not os.environ.get(need.variable)]
    starts = _ways(wanted)
    started: list[Provided] = []
    try:
        with ThreadPoolExecutor(max_workers=max(1, len(starts))) as pool:
            futures = [(need, pool.submit(start)) for need, start in starts]
        for need, future in futures:
            if future.exception() is None:
                started.append(future.result())
                os.environ[need.variable] = future.result().url
        for need, future in futures:
            if (error := future.exception()) is not None:
                raise SystemExit(f"{need.name} did not start: {error}")
        yield {need.variable: os.environ[need.variable] for need in needed}
    finally:
        with _undisturbed():
            for server in started:
                server.close()
            for need, _ in starts:
                os.environ.pop(need.variable, None)


def _ways(wanted: list[Need]) -> list[tuple[Need, Callable[[], Provided]]]:
    """How each wanted server will be started."""
    missing = [need for need in wanted if not _is_there(need)]
    if missing and packages.may_install():
        packages.install([package for need in missing for package in need.packages])
        missing = [need for need in missing if not _is_there(need)]
    starts = {need.name: need.start for need in wanted}
    if missing and containers.available():
        starts |= {
            need.name: partial(containers.start, need.name) for need in missing if need.name in containers.IMAGES
        }
        missing = [need for need in missing if need.name not in containers.IMAGES]
    if missing:
        lines = [
            f"{need.name} is not installed. As root: apt-get install {' '.join(need.packages)}; or set {need.variable} to "
            + ("a browser's path." if need.name == "Chromium" else "a server whose content may be erased.")
            for need in missing
        ]
        raise SystemExit("\n".join(lines))
    return [(need, starts[need.name]) for need in wanted]


def _is_there(need: Need) -> bool:
    try:
        need.look()
    except services.MissingProgram:
        return False
    return True


def left_over() -> list[psutil.Process]:
    """Return the living processes that this run started, at whatever distance, and did not end."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            with open(f"/proc/{process.pid}/environ", "rb") as environ:
                if mark in environ.read().split(b"\0"):
                    found.append(process)
    return found


def end_left_over() -> list[str]:
    """Kill what this run left running and return the command lines, for the report."""
    lines = []
    for process in left_over():
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()
    return lines


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C while servers are being stopped would leave them running."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def end_on_term() -> None:
    """Let SIGTERM and SIGHUP leave through the same door as Ctrl-C, so that the servers are stopped."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    # A shell without job control starts what stands before `&` with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
