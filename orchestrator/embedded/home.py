"""What lies under UPBEAT_HOME: generated secrets of mode 0600, data, logs, pid files.

    upbeat.sqlite3  store/            the ledger; logs and large results
    secret-key  encryption-keys       of this installation
    admin-password  token             for people and for pipelines
    token-header                      the token as a header line, for `curl -H @<file>`
    webhook-secret  webhook-url       of the example's webhook: what signs its calls, and where they go
    broker/                           the Redis-protocol server: its settings, its URL, its data
    logs/<name>.log  run/<name>.json  of each supervised process
    run/<name>[.<part>].beat          touched by a process while it makes progress

Standard library alone: settings read it before Django exists.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path


def random_password() -> str:
    return secrets.token_urlsafe(18)


def random_key() -> str:
    """A Fernet key: 32 random bytes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


class Home:
    """The directory of one embedded installation."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.run = self.path / "run"
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics"
        self.broker = self.path / "broker"
        self.secret_key = self.path / "secret-key"
        self.encryption_keys = self.path / "encryption-keys"
        self.admin_password = self.path / "admin-password"
        self.token = self.path / "token"
        self.token_header = self.path / "token-header"
        self.webhook_secret = self.path / "webhook-secret"
        self.webhook_url = self.path / "webhook-url"
        self.broker_url = self.broker / "url"

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Home:
        return cls(environ.get("UPBEAT_HOME") or "./.upbeat")

    def prepare(self) -> None:
        """Make the directories and generate what is missing; what exists stays as it is."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.run, self.logs, self.metrics, self.broker):
            directory.mkdir(mode=0o700, exist_ok=True)
        keep(self.secret_key, lambda: secrets.token_urlsafe(50))
        keep(self.encryption_keys, random_key)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what a process of this installation needs beside `environ`; a variable that is set wins."""
        found = {"UPBEAT_HOME": str(self.path)}
        for name, file in (
            ("UPBEAT_SECRET_KEY", self.secret_key),
            ("UPBEAT_ENCRYPTION_KEYS", self.encryption_keys),
            ("UPBEAT_BROKER_URL", self.broker_url),
        ):
            if not environ.get(name) and not environ.get(f"{name}_FILE") and file.exists():
                found[f"{name}_FILE"] = str(file)
        return found


def adopt_home(environ: MutableMapping[str, str]) -> None:
    """Let a command in another terminal use the keys and the broker of the installation that UPBEAT_HOME names."""
    for name, value in Home.of(environ).environment(environ).items():
        environ.setdefault(name, value)


def keep(file: Path, make: Callable[[], str]) -> str:
    """Return what a secret's file holds, generating it first if there is none; readable by its owner alone."""
    with contextlib.suppress(FileNotFoundError):
        if text := file.read_text().strip():
            return text
    write_private(file, make())
    return file.read_text().strip()


def write_private(file: Path, text: str) -> None:
    """Write a file of mode 0600; a reader sees the old or the new text, never half of it."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(f"{text}\n")
    draft.replace(file)
