"""How the server reads the body of a call: no longer than it must, no larger than the path allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from orchestrator.api import server
from orchestrator.conf import options
from tests.support import webhooks as sender
from tests.support.endpoints import new_endpoint
from triggers.services.webhooks import body_limit

pytestmark = pytest.mark.django_db


def answer_to(
    path: str, receive: Callable[[], Awaitable[dict[str, Any]]], headers: Iterable[Any] = ()
) -> tuple[int, int]:
    """The status of a call whose body comes as `receive` gives it, and how often it was asked for more."""
    asked = 0
    statuses: list[int] = []

    async def counted() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return await receive()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "query_string": b""}
    api = server.ApiServer()
    try:
        asyncio.run(api(scope, counted, send))
    finally:
        api.close()
    return statuses[0], asked


async def _drip() -> dict[str, Any]:
    await asyncio.sleep(0.02)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def _flood() -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * 2**18, "more_body": True}


def test_a_body_that_drips_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.2)

    status, asked = answer_to("/api/v1/events", _drip)

    assert status == 408
    assert asked < 20


def test_a_body_without_a_length_is_cut_as_soon_as_it_is_too_large() -> None:
    assert answer_to("/api/v1/events", _flood) == (413, 5)


def test_a_length_that_is_too_large_is_refused_before_anything_is_read() -> None:
    assert answer_to("/api/v1/events", _flood, [(b"content-length", b"1048577")]) == (413, 0)


def test_the_limit_of_a_webhook_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setattr(options(), "_values", {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (key,)})
    endpoint = new_endpoint("generic", max_bytes=25 * 2**20, secret=sender.SECRET)

    assert body_limit(endpoint.path) == 25 * 2**20
    assert body_limit("/api/v1/hooks/nobody") == 2**20
