"""The web server as it is deployed, in a process of its own on the database of a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet
from django.conf import settings

from tests.support.processes import Process
from tests.support.services import free_port
from tests.support.waiting import eventually

_SERVE = """
import sys
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
import orchestrator.asgi, uvicorn
uvicorn.run(orchestrator.asgi.application, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The base URL and the process id of a web server on this test's database."""
    port = free_port()
    name = str(settings.DATABASES["default"]["NAME"])
    process = Process(
        "web",
        [sys.executable, "-c", _SERVE, name, str(port)],
        environ={
            "UPBEAT_HOME": os.environ["UPBEAT_HOME"],
            "UPBEAT_RATE_PER_MINUTE": "0",
            "UPBEAT_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        },
        log=tmp_path / "web.log",
    ).start()
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: httpx.get(f"{url}/healthz").is_success, within=30, ignoring=(httpx.TransportError,))
        yield url, process.pid
    finally:
        process.kill()
