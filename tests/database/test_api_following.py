"""Following logs over real HTTP: the server as it is deployed, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import psutil
import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.api.following import MOST_STREAMS_OF_TOKEN
from orchestrator.conf import options
from orchestrator.models import Attempt, TaskRun
from orchestrator.states import TaskState
from orchestrator.store import keep_result, log_key, open_store
from tests.support.records import new_attempt, new_job, new_run, new_task_run, token_text
from tests.support.web import server

__all__ = ["server"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def running_attempt() -> Attempt:
    run = new_run(new_job())
    # SQLite gives ids out again; a file of the run that had this one may be left.
    open_store(options().store_location).delete_runs([run.pk])
    return new_attempt(new_task_run(run, state=TaskState.RUNNING), "running")


def write(attempt: Attempt, data: bytes) -> None:
    open_store(options().store_location).append(log_key(attempt.task_run.run_id, attempt.pk), data)


def end(attempt: Attempt) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(state="succeeded", ended_at=timezone.now())
    connection.close()


def events(text: str) -> list[tuple[str, str]]:
    """(name, data) of each event of a stream."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(block["event"], block["data"]) for block in blocks if "event" in block]


def test_200_followers_of_a_log_see_each_line_and_starve_nobody(server):
    url, pid = server
    attempt = running_attempt()
    write(attempt, b"first\n")
    headers = {"Authorization": f"Bearer {token_text()}"}
    texts: list[str] = [""] * 200
    lags: list[float] = []
    written = [float("inf")]

    async def scene() -> tuple[list[float], int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:

            async def follow(index: int) -> None:
                async with client.stream("GET", f"/api/v1/attempts/{attempt.pk}/log/stream") as answer:
                    assert answer.status_code == 200
                    async for piece in answer.aiter_text():
                        texts[index] += piece
                        if "second" in piece:
                            lags.append(time.monotonic() - written[0])

            async with asyncio.timeout(60):
                following = [asyncio.create_task(follow(index)) for index in range(200)]
                while not all("first" in text for text in texts):
                    await asyncio.sleep(0.05)
                times = []
                for _ in range(20):
                    started = time.monotonic()
                    assert (await client.get("/api/v1/runs?limit=1")).status_code == 200
                    times.append(time.monotonic() - started)
                threads = psutil.Process(pid).num_threads()
                written[0] = time.monotonic()
                await asyncio.to_thread(write, attempt, b"second\n")
                while len(lags) < 200:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(end, attempt)
                await asyncio.gather(*following)
            return times, threads

    times, threads = asyncio.run(scene())

    assert sorted(times)[len(times) // 2] < 0.5
    assert threads < 40
    # A line is there within a second; the rest is 200 answers on a busy machine.
    assert sorted(lags)[100] < 3
    for text in texts:
        assert "".join(json.loads(data)["text"] for name, data in events(text) if name == "log") == "first\nsecond\n"
        assert events(text)[-1] == ("end", '{"state": "succeeded"}')


def test_a_stream_goes_on_behind_the_last_event(server):
    url, _ = server
    attempt = running_attempt()
    write(attempt, b"first\nsecond\n")
    headers = {"Authorization": f"Bearer {token_text()}"}
    path = f"{url}/api/v1/attempts/{attempt.pk}/log/stream"

    with httpx.stream("GET", path, headers=headers, timeout=20) as answer:
        block = next(answer.iter_text())
    end(attempt)
    rest = httpx.get(path, headers={**headers, "Last-Event-ID": "6"}, timeout=20)

    assert block.startswith("id: 13\n")
    assert events(rest.text) == [("log", '{"text": "second\\n"}'), ("end", '{"state": "succeeded"}')]


def test_a_long_log_is_followed_whole_and_memory_does_not_grow_with_it(server):
    url, pid = server
    attempt = running_attempt()
    for _ in range(20):
        write(attempt, b"x" * 1023 * 1024 + b"\n" * 1024)
    end(attempt)
    headers = {"Authorization": f"Bearer {token_text()}", "Accept": "text/plain"}
    before = psutil.Process(pid).memory_info().rss

    size = 0
    with httpx.stream("GET", f"{url}/api/v1/attempts/{attempt.pk}/log/stream", headers=headers, timeout=60) as answer:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        for piece in answer.iter_bytes():
            size += len(piece)

    assert size == 20 * 2**20
    assert psutil.Process(pid).memory_info().rss - before < 15 * 2**20


def test_a_follower_too_many_is_told_to_come_back_and_leaving_makes_room(server):
    url, _ = server
    attempt = running_attempt()
    headers = {"Authorization": f"Bearer {token_text()}"}
    path = f"{url}/api/v1/attempts/{attempt.pk}/log/stream"

    async def scene() -> tuple[int, str, int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits) as client, asyncio.timeout(60):
            opened = [
                await client.send(client.build_request("GET", path), stream=True) for _ in range(MOST_STREAMS_OF_TOKEN)
            ]
            refused = await client.get(path)
            for answer in opened[:5]:
                await answer.aclose()
            for _ in range(100):
                again = await client.send(client.build_request("GET", path), stream=True)
                if again.status_code == 200:
                    break
                await again.aclose()
                await asyncio.sleep(0.1)
            status = again.status_code
            for answer in (*opened[5:], again):
                await answer.aclose()
            return refused.status_code, refused.json()["code"], status

    assert asyncio.run(scene()) == (429, "too_many_streams", 200)


def test_a_large_result_is_sent_by_the_server_at_the_pace_of_its_caller(server):
    url, _ = server
    row = running_attempt().task_run
    value = ["y" * 1000] * 20_000
    kept = keep_result(open_store(options().store_location), row.run_id, value)
    TaskRun.objects.filter(pk=row.pk).update(result_ref=kept.ref)
    connection.close()

    headers = {"Authorization": f"Bearer {token_text()}"}
    answer = httpx.get(f"{url}/api/v1/task-runs/{row.pk}/result", headers=headers, timeout=60)
    head = httpx.head(f"{url}/api/v1/task-runs/{row.pk}/result", headers=headers, timeout=60)

    assert answer.json() == value
    assert (head.status_code, head.headers["content-length"], head.content) == (
        200,
        answer.headers["content-length"],
        b"",
    )
