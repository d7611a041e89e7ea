"""The web server as it is deployed, each on a database of its own next to that of the tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from tests.support.processes import Process, python
from tests.support.services import free_port
from tests.support.waiting import eventually


@dataclass
class Site:
    """A running server; while it is entered, this process's models are those of its database, too."""

    url: str
    environ: dict[str, str]
    directory: Path
    process: Process
    people: dict[str, str] = field(default_factory=dict)

    def cookie(self, name: str = "ada", **fields: Any) -> dict[str, str]:
        """Sign a person in, made with `fields` if new, and return the cookie as Playwright wants it."""
        if name not in self.people:
            fields = fields or {"is_superuser": True}
            person, _ = User.objects.get_or_create(username=name, defaults={"is_staff": True, **fields})
            client = Client()
            client.force_login(person)
            self.people[name] = client.cookies["sessionid"].value
        return {"name": "sessionid", "value": self.people[name], "url": self.url}


@contextmanager
def own_database(name: str, *, like: str = "") -> Iterator[str]:
    """Make an empty database, or a copy of the one called `like`, and drop it on leaving; yields its name.

    Django's models are those of this database meanwhile.
    """
    settings = connection.settings_dict
    before = settings["NAME"]
    mine = f"{name}_{secrets.token_hex(4)}"
    connection.close()
    _administer(f'create database "{mine}"' + (f' template "{like}"' if like else ""))
    settings["NAME"] = mine
    with connection.cursor() as cursor:
        # Thousands of rows are made between two statements; ours may be idle for 3 s.
        cursor.execute("set idle_in_transaction_session_timeout = 0")
    try:
        yield mine
    finally:
        connection.close()
        settings["NAME"] = before
        _administer(f'drop database "{mine}" with (force)')


def _administer(statement: str) -> None:
    settings = connection.settings_dict
    found = {key: settings[key.upper()] for key in ("host", "port", "user", "password")}
    with psycopg.connect(**found, dbname="postgres", autocommit=True) as administrator:
        administrator.execute(statement)


@contextmanager
def site(directory: Path, **environ: str) -> Iterator[Site]:
    """Run the web server on the database of Django's models; `environ` is what it is configured with beside that."""
    port = free_port()
    settings = connection.settings_dict
    where = f"{quote(settings['USER'])}:{quote(settings['PASSWORD'])}@{settings['HOST']}:{settings['PORT']}"
    given = {
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.test",
        "UPBEAT_HOME": str(directory / "home"),
        "UPBEAT_TEST_DATABASE_URL": f"postgresql://{where}/{settings['NAME']}",
        "UPBEAT_RATE_PER_MINUTE": "0",
        "UPBEAT_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "PYTEST_XDIST_WORKER": "",
        **environ,
    }
    (directory / "home").mkdir(exist_ok=True)
    command = ("-m", "uvicorn", "orchestrator.asgi:application", "--port", str(port), "--no-access-log")
    process = python("web", *command, environ=given, log=directory / "web.log").start()
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: httpx.get(f"{url}/healthz").is_success, within=60, ignoring=(httpx.TransportError,))
        yield Site(url, given, directory, process)
    finally:
        process.kill_tree()
        assert '"level":"ERROR"' not in process.output(), process.output()[-4000:]
