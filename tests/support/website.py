"""A web server on a database of its own, told what to do over its API alone: for tests that stop the database."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
from cryptography.fernet import Fernet

from tests.support.processes import ROOT, Process, python
from tests.support.services import PostgresServer, free_port
from tests.support.waiting import eventually
from tests.support.webhooks import SECRET


@dataclass
class Website:
    """The server, its database, and a caller that may do everything."""

    url: str
    postgres: PostgresServer
    process: Process
    client: httpx.Client

    def must(self, method: str, path: str, body: object) -> Any:
        """Make a call that has to succeed and return its answer."""
        answered = self.client.request(method, path, json=body)
        assert answered.is_success, answered.text
        return answered.json()

    def webhook(self, slug: str, *, secret: str = SECRET, **config: Any) -> str:
        """Make a webhook and return where it is called."""
        self.must("PUT", f"/api/v1/secrets/{slug}-secret", {"value": secret})
        source = {"slug": slug, "type": "webhook", "config": config, "secrets": {"current": f"{slug}-secret"}}
        found: str = self.must("POST", "/api/v1/event-sources", source)["hook_url"]
        return found

    def rule(self, **fields: Any) -> None:
        """Make a job of one command, and the rule that starts it on each `order.created`."""
        rule = {"ruleId": "a-rule", "eventType": "order.created", "taskName": "ship", "taskType": "shell"}
        self.must("POST", "/api/v1/task-trigger-rules", rule | {"parameters": {"command": "true"}} | fields)

    def count(self, query: str) -> int:
        """Return the one number of a query on the database."""
        with psycopg.connect(self.postgres.url) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def raw(self) -> socket.socket:
        """Open a connection on which a test writes HTTP by hand."""
        where = urlsplit(self.url)
        assert where.hostname is not None
        return socket.create_connection((where.hostname, where.port or 80), timeout=30)


@contextmanager
def website(postgres: PostgresServer, directory: Path, **environ: str) -> Iterator[Website]:
    """Run a web server on an empty database, and nothing that runs its tasks."""
    port = free_port()
    given = {
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.test",
        "UPBEAT_HOME": str(directory / "home"),
        "UPBEAT_TEST_DATABASE_URL": postgres.url,
        "UPBEAT_RATE_PER_MINUTE": "0",
        "UPBEAT_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        **environ,
    }

    def manage(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        found = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **given}, capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    manage("migrate", "--verbosity", "0")
    token = json.loads(manage("create_token", "tests", "--scope", "admin", "--json"))["token"]
    command = ("-m", "uvicorn", "orchestrator.asgi:application", "--port", str(port), "--no-access-log")
    process = python("web", *command, environ=given, log=directory / "web.log").start()
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: httpx.get(f"{url}/healthz").is_success, within=30, ignoring=(httpx.TransportError,))
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
            yield Website(url, postgres, process, client)
    finally:
        process.kill_tree()
