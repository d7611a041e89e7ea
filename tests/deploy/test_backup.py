"""Backup and restore of PostgreSQL, with the commands of the operating guide."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from orchestrator.embedded.home import random_key
from tests.support import services

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/operate.md").read_text().partition("## Backup and restore")[2]

pytestmark = pytest.mark.slow


def commands() -> list[list[str]]:
    """The lines of the guide's blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.partition("\n## ")[0], flags=re.DOTALL)
    return [line.partition("  #")[0].split() for block in blocks for line in block.splitlines()]


def test_what_the_guide_says_brings_everything_back(own_postgres: services.PostgresServer, tmp_path: Path) -> None:
    environ = {
        **{key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
        "UPBEAT_PROFILE": "production",
        "UPBEAT_HOME": str(tmp_path),
        "UPBEAT_SECRET_KEY": secrets.token_hex(24),
        "UPBEAT_ENCRYPTION_KEYS": random_key(),
        "UPBEAT_ALLOWED_HOSTS": "localhost",
        # Nothing answers there, and nothing here asks it.
        "UPBEAT_BROKER_URL": "redis://127.0.0.1:1/0",
        "UPBEAT_DATABASE_URL": own_postgres.url,
    }
    server, _, _ = own_postgres.url.rpartition("/")

    def run(*command: str, code: int = 0) -> str:
        program = {"python": sys.executable}.get(command[0]) or services.program(
            command[0], "/usr/lib/postgresql/*/bin/" + command[0]
        )
        done = subprocess.run(
            [program, *command[1:]], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def told(command: list[str], database: str) -> list[str]:
        values = {"$DATABASE_URL": f"{server}/{database}", "$SERVER_URL": f"{server}/postgres", "upbeat.dump": dump}
        text = [word.replace('"', "") for word in command]
        for name, value in values.items():
            text = [word.replace(name, value) for word in text]
        return text

    dump = str(tmp_path / "upbeat.dump")
    backup, create, restore, migrate, doctor = commands()
    run("python", "manage.py", "migrate", "--noinput")
    run("python", "manage.py", "apply", *map(str, sorted((ROOT / "examples").glob("*.yaml"))))
    before = run("python", "manage.py", "export", "word-count")
    run(*told(backup, "upbeat"))
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("drop database upbeat")

    run(*told(create, "upbeat"))
    run(*told(restore, "upbeat"))

    assert "No migrations to apply" in run(*migrate)
    assert run("python", "manage.py", "export", "word-count") == before
    said = run(*doctor, "--json", code=1)
    assert '"name": "migrations", "ok": true' in said
