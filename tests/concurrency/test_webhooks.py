"""Webhooks on the server as it is deployed: many at once, slow ones, huge ones, and no database."""

from __future__ import annotations

import asyncio
import json
import re
import select
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.support import services
from tests.support import webhooks as sender
from tests.support.waiting import eventually
from tests.support.website import Website, website

pytestmark = pytest.mark.kill
EVENT = {"messageId": "m-1", "eventType": "order.created", "payload": {"orderId": "o-1"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    with (
        services.start_postgres() as postgres,
        website(postgres, tmp_path_factory.mktemp("site")) as found,
    ):
        found.rule()
        yield found


def post(url: str, event: object, **headers: str) -> httpx.Response:
    body = event if isinstance(event, bytes) else sender.text(event)
    return httpx.post(url, content=body, headers=sender.generic(body) | headers, timeout=60)


def test_two_hundred_deliveries_of_one_id_are_one_event_and_one_run(site: Website) -> None:
    url = site.webhook("crowd", provider="generic")
    body = sender.text({**EVENT, "messageId": "crowd"})

    async def deliver() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            calls = [client.post(url, content=body, headers=sender.generic(body)) for _ in range(200)]
            return await asyncio.gather(*calls)

    answers = asyncio.run(deliver())

    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 199}
    assert len({answer.json()["eventId"] for answer in answers}) == 1
    assert sum(answer.json()["duplicate"] for answer in answers) == 199
    assert site.count("select count(*) from triggers_event where message_id = 'crowd'") == 1
    assert site.count("select count(*) from orchestrator_jobrun where trigger->>'message_id' = 'crowd'") == 1


def test_without_a_database_a_delivery_is_to_be_repeated_and_then_counts_once(site: Website) -> None:
    url = site.webhook("outage", provider="generic")
    event = {**EVENT, "messageId": "outage"}
    assert post(url, {**event, "messageId": "before"}).status_code == 202

    site.postgres.stop()
    try:
        refused = [post(url, event) for _ in range(3)]
    finally:
        site.postgres.start()
    accepted, again = post(url, event), post(url, event)

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert (accepted.status_code, again.status_code) == (202, 200)
    assert site.count("select count(*) from triggers_event where message_id = 'outage'") == 1
    assert site.count("select count(*) from orchestrator_jobrun where trigger->>'message_id' = 'outage'") == 1
    assert site.count("select count(*) from triggers_deadletter") == 0


def test_a_database_that_hangs_lets_no_provider_wait_for_longer_than_its_patience(site: Website) -> None:
    url = site.webhook("hang", provider="generic")
    event = {**EVENT, "messageId": "hang"}
    assert post(url, {**event, "messageId": "before the hang"}).status_code == 202

    site.postgres.pause()
    try:
        began = time.monotonic()
        refused = post(url, event)
        seconds = time.monotonic() - began
    finally:
        site.postgres.resume()
    again = eventually(lambda: (found := post(url, event)).status_code in (200, 202) and found, within=60)

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert 4.5 < seconds < 10
    assert again.json()["eventId"]
    assert site.count("select count(*) from triggers_event where message_id = 'hang'") == 1
    assert site.count("select count(*) from orchestrator_jobrun where trigger->>'message_id' = 'hang'") == 1


def test_a_chunked_body_is_verified_as_a_whole(site: Website) -> None:
    url = site.webhook("chunked", provider="generic")
    body = sender.text({**EVENT, "messageId": "chunked"})

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    answered = httpx.post(url, content=pieces(), headers=sender.generic(body))

    assert (answered.request.headers["Transfer-Encoding"], answered.status_code) == ("chunked", 202)


def test_a_body_of_25_mebibytes_is_taken_where_the_source_says_so(site: Website) -> None:
    most = 25 * 2**20
    large, usual = site.webhook("large", provider="generic", max_bytes=most), site.webhook("usual", provider="generic")
    event = {**EVENT, "messageId": "large", "payload": {"x": ""}}
    event["payload"] = {"x": "y" * (most - len(sender.text(event)))}
    body = sender.text(event)
    assert len(body) == most

    assert post(usual, body).status_code == 413
    assert post(large, body + b" ").status_code == 413
    answered = post(large, body)

    assert answered.status_code == 202, answered.text[:500]


def test_a_body_that_is_too_large_is_cut_while_it_is_sent(site: Website) -> None:
    """Nobody waits for the end of what will not be taken, whether its length was said or not."""
    path = site.webhook("cut", provider="generic").removeprefix(site.url)
    sent = 0
    with site.raw() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while sent < 64 * 2**20 and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += 65536
        chunked = connection.recv(4096)
    with site.raw() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n".encode())
        answered = connection.recv(4096)

    assert sent < 32 * 2**20
    assert b" 413 " in chunked.splitlines()[0]
    assert b" 413 " in answered.splitlines()[0]


def test_whoever_sends_a_byte_now_and_then_holds_up_nobody(site: Website) -> None:
    url = site.webhook("slow", provider="generic")
    path = url.removeprefix(site.url)
    body = sender.text({**EVENT, "messageId": "slow"})
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections = [site.raw() for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(head + body[:3])
        began = time.monotonic()
        answered = post(url, body)
        seconds = time.monotonic() - began
    finally:
        for connection in connections:
            connection.close()

    assert answered.status_code == 202
    assert seconds < 5


def test_what_signs_and_what_is_secret_is_nowhere_in_log_or_database(site: Website) -> None:
    url = site.webhook("quiet", secret="correct horse battery staple", provider="gitlab")
    body = sender.text({"object_kind": "push"})
    for token in ("correct horse battery staple", "incorrect horse"):
        httpx.post(url, content=body, headers={"X-Gitlab-Token": token, "Content-Type": "application/json"})

    log = site.process.log.read_text()
    stored = site.count(
        "select count(*) from triggers_event e where (e.headers::text || e.payload::text || e.metadata::text) ~ 'horse'"
    )

    assert "a webhook's call is refused" in log
    assert not re.search("horse", log)
    assert stored == 0


def test_a_duplicated_signature_header_is_not_believed(site: Website) -> None:
    path = site.webhook("twice", provider="generic").removeprefix(site.url)
    body = sender.text({**EVENT, "messageId": "twice"})
    right = sender.generic(body)["x-signature-256"]
    with site.raw() as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        for signature in (right, "sha256=" + "0" * 64):
            head += f"X-Signature-256: {signature}\r\n"
        connection.sendall(head.encode() + b"\r\n" + body)
        answered = b"".join(iter(lambda: connection.recv(4096), b""))

    assert b" 401 " in answered.splitlines()[0]
    assert json.loads(answered.rpartition(b"\r\n\r\n")[2])["code"] == "unauthenticated"
