"""Every UPBEAT_* option: name, type, default, one line of meaning, the unit in its name.

Options come from the environment alone (12-factor); each secret may also come from a file named by `…_FILE`.
A bad value fails at start with name, value and what was expected. Contradictions are system checks
(`checks.py`). The table in `docs/reference.md` is produced from `OPTIONS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.contracts import BUILT_IN_POOLS
from orchestrator.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Option:
    """One option: the environment variable, how its text is read, and what it means."""

    name: str
    read: Callable[[str], Any]
    default: Any
    meaning: str
    secret: bool = False
    expected: str = "text"


def _text(value: str) -> str:
    return value


def _count(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _port(value: str) -> int:
    number = int(value)
    if not 0 < number < 65536:
        raise ValueError
    return number


def _flag(value: str) -> bool:
    try:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[value.lower()]
    except KeyError:
        raise ValueError from None


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _choice(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError
        return value

    return read


def _url(*schemes: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if urlsplit(value).scheme not in schemes:
            raise ValueError
        return value

    return read


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    return value


DATABASES = ("postgres", "postgresql", "sqlite")
BROKERS = ("redis", "rediss", "amqp", "amqps")

OPTIONS: tuple[Option, ...] = (
    Option(
        "UPBEAT_PROFILE",
        _choice("embedded", "production"),
        "embedded",
        "Which profile runs: `embedded` needs no servers, `production` takes them by URL.",
        expected="embedded or production",
    ),
    Option("UPBEAT_ENV", _text, "dev", "Name of the environment, `${env}` in definitions: dev, test, prod …"),
    Option("UPBEAT_HOME", _text, "./.upbeat", "Directory of the embedded profile's data, logs and generated secrets."),
    Option(
        "UPBEAT_STORE_URL",
        _text,
        "",
        "Where logs and large results lie: a directory, or `s3://bucket/prefix?endpoint=…&region=…`; "
        "default: `store` under UPBEAT_HOME.",
    ),
    Option(
        "UPBEAT_STORE_ACCESS_KEY_ID",
        _text,
        "",
        "Key id for an s3:// store; default: what AWS's tools would use.",
        secret=True,
    ),
    Option("UPBEAT_STORE_SECRET_ACCESS_KEY", _text, "", "Secret key to UPBEAT_STORE_ACCESS_KEY_ID.", secret=True),
    Option(
        "UPBEAT_RUN_RETENTION_DAYS",
        _count,
        0,
        "Ended runs older than this are deleted with their logs and results; 0: everything is kept.",
        expected="a whole number",
    ),
    Option(
        "UPBEAT_DATABASE_URL",
        _url(*DATABASES),
        "",
        "The ledger's database.",
        secret=True,
        expected="a postgresql:// or sqlite:/// URL",
    ),
    Option(
        "UPBEAT_BROKER_URL",
        _url(*BROKERS),
        "",
        "Celery's broker.",
        secret=True,
        expected="a redis://, rediss://, amqp:// or amqps:// URL",
    ),
    Option(
        "UPBEAT_RESULT_URL",
        _url("redis", "rediss"),
        "",
        "Celery's result backend, for chord counters alone; default: the broker if it is Redis.",
        secret=True,
        expected="a redis:// or rediss:// URL",
    ),
    Option("UPBEAT_SECRET_KEY", _text, "", "Django's secret key.", secret=True),
    Option(
        "UPBEAT_ENCRYPTION_KEYS",
        _list,
        (),
        "Keys of stored secrets, comma-separated Fernet keys: the first encrypts, all decrypt.",
        secret=True,
        expected="Fernet keys, separated by commas",
    ),
    Option(
        "UPBEAT_KAFKA_BOOTSTRAP",
        _text,
        "",
        "The Kafka brokers of event sources that name none, and of `manage.py event_topology`: host:port, separated "
        "by commas.",
    ),
    Option(
        "UPBEAT_RABBITMQ_URL",
        _url("amqp", "amqps"),
        "",
        "The RabbitMQ of event sources that name no host, and of `manage.py event_topology`.",
        secret=True,
        expected="an amqp:// or amqps:// URL",
    ),
    Option("UPBEAT_HOST", _text, "127.0.0.1", "Address the web process listens on."),
    Option("UPBEAT_PORT", _port, 8000, "Port of the web process.", expected="a port, 1 to 65535"),
    Option("UPBEAT_FLOWER_PORT", _port, 5555, "Port of Flower.", expected="a port, 1 to 65535"),
    Option(
        "UPBEAT_PUBLIC_URL",
        _web_url,
        "",
        "Where people reach the admin, for links that lead there from Flower; default: this machine at UPBEAT_PORT.",
        expected="an http:// or https:// URL",
    ),
    Option(
        "UPBEAT_FLOWER_URL",
        _web_url,
        "",
        "Where people reach Flower, for links from the admin; default: none, embedded this machine at UPBEAT_FLOWER_PORT.",
        expected="an http:// or https:// URL",
    ),
    Option("UPBEAT_ALLOWED_HOSTS", _list, (), "Host names the web process answers to, separated by commas."),
    Option("UPBEAT_POOLS", _list, (), "Pools beside default, long and bulk, separated by commas."),
    Option(
        "UPBEAT_LEASE_SECONDS",
        _seconds,
        15.0,
        "How long an attempt may go without renewing its lease; renewed three times as often.",
        expected="seconds",
    ),
    Option(
        "UPBEAT_RECONCILE_SECONDS", _seconds, 0.0, "Pause between two rounds of the reconciler; 0: 5, embedded 2.", expected="seconds"
    ),
    Option("UPBEAT_HINT_SECONDS", _seconds, 15.0, "Age at which an unclaimed hint may count as lost.", expected="seconds"),
    Option(
        "UPBEAT_EVENT_RETENTION_DAYS",
        _count,
        30,
        "Events older than this are deleted with their firings, a day at a time; 0: everything is kept.",
        expected="a whole number",
    ),
    Option(
        "UPBEAT_EVENT_KEY_DAYS",
        _count,
        15,
        "How long it is known that a message was there: longer than any broker may deliver it again. "
        "Kafka's older records are stored and start nothing.",
        expected="a whole number",
    ),
    Option(
        "UPBEAT_UNLAUNCHED_LIMIT",
        _count,
        20_000,
        "Runs that may wait for their launch before listeners stop reading; they go on at half of it. 0: no limit.",
        expected="a whole number",
    ),
    Option(
        "UPBEAT_QUEUED_LIMIT",
        _count,
        0,
        "Pending runs, held ones too, at which listeners stop reading; they go on at half of it. 0: no limit.",
        expected="a whole number",
    ),
    Option(
        "UPBEAT_LAUNCH_INLINE",
        _count,
        100,
        "Runs of one batch that its listener launches itself; more are left to a control worker.",
        expected="a whole number",
    ),
    Option("UPBEAT_RATE_PER_MINUTE", _count, 600, "API calls a minute and token, over all processes; 0: no limit.", expected="a whole number"),
    Option("UPBEAT_LOG_BYTES", _count, 100 * 2**20, "Largest log of one attempt, bytes.", expected="a whole number"),
    Option("UPBEAT_LOG_LEVEL", _text, "INFO", "Least level that is logged."),
    Option("UPBEAT_WORKER_EVENTS", _flag, False, "Send worker events, which Flower needs; costs about a quarter of worker CPU.", expected="true or false"),
    Option(
        "UPBEAT_WORKER_STOP_SECONDS",
        _seconds,
        0.0,
        "How long a worker that is asked to end lets its tasks run; 0: 25, embedded 8. Whoever stops it must wait longer.",
        expected="seconds",
    ),
    Option("UPBEAT_DATABASE_POOL", _count, 0, "Connections of this process's database pool; 0: one per thread, kept.", expected="a whole number"),
    Option("UPBEAT_METRICS_DIR", _text, "", "Directory for metrics shared by the processes of a host."),
    Option("UPBEAT_PROGRESS_FILE", _text, "", "File this process touches while it makes progress; set by the supervisor."),
)  # fmt: skip


class Options(Mapping[str, Any]):
    """The options as read from one environment; attribute `broker_url` is `UPBEAT_BROKER_URL`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {option.name: _read(option, environ) for option in OPTIONS}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[f"UPBEAT_{name.upper()}"]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def pools(self) -> tuple[str, ...]:
        """All pools that a definition may name."""
        return (*BUILT_IN_POOLS, *(p for p in self._values["UPBEAT_POOLS"] if p not in BUILT_IN_POOLS))

    @property
    def home_path(self) -> Path:
        return Path(self._values["UPBEAT_HOME"]).absolute()

    @property
    def store_location(self) -> str:
        return self._values["UPBEAT_STORE_URL"] or str(self.home_path / "store")


def _read(option: Option, environ: Mapping[str, str]) -> Any:
    text = environ.get(option.name)
    if text is None and option.secret and (path := environ.get(f"{option.name}_FILE")):
        try:
            text = Path(path).read_text().strip()
        except OSError as error:
            raise Misconfigured(f"{option.name}_FILE: {path!r} cannot be read: {error.strerror}") from error
    if text is None or (text == "" and option.default != ""):
        return option.default
    if text == "":
        return ""
    try:
        return option.read(text)
    except ValueError:
        shown = "(hidden)" if option.secret else repr(text)
        raise Misconfigured(f"{option.name}: {shown} is not {option.expected}") from None


@cache
def options() -> Options:
    """The options of this process, read once."""
    return Options(os.environ)
