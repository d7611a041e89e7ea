"""Waiting for a run over real HTTP: the server as it is deployed, in a process of its own."""

from __future__ import annotations

import asyncio
import time

import httpx
import psutil
import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.models import JobRun
from orchestrator.states import RunState
from tests.support.records import new_job, new_run, token_text
from tests.support.web import server

__all__ = ["server"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def end(run: JobRun) -> None:
    JobRun.objects.filter(pk=run.pk).update(state=RunState.SUCCEEDED, ended_at=timezone.now())


def open_connections() -> int:
    """How many connections the database server has for this database; SQLite has no server."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_stat_activity where datname = current_database()")
        count = cursor.fetchone()[0]
    connection.close()
    return count


def test_200_waiting_callers_hold_no_connection_and_starve_nobody(server):
    url, pid = server
    runs = [new_run(new_job()) for _ in range(1)]
    runs += [new_run(runs[0].job) for _ in range(9)]
    headers = {"Authorization": f"Bearer {token_text()}"}

    async def scene() -> tuple[list[float], int, int, list[tuple[float, str]]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=40, limits=limits) as client:

            async def wait(index: int) -> tuple[float, str]:
                answer = await client.get(f"/api/v1/runs/{runs[index % 10].pk}?wait=30")
                return time.monotonic(), answer.json()["state"]

            waiting = [asyncio.create_task(wait(index)) for index in range(200)]
            await asyncio.sleep(2)
            times = []
            for _ in range(20):
                started = time.monotonic()
                assert (await client.get("/api/v1/runs?limit=1")).status_code == 200
                times.append(time.monotonic() - started)
            threads = psutil.Process(pid).num_threads()
            connections = await asyncio.to_thread(open_connections)
            ended = time.monotonic()
            await asyncio.to_thread(lambda: ([end(run) for run in runs], connection.close()))
            answered = await asyncio.gather(*waiting)
            return times, threads, connections, [(moment - ended, state) for moment, state in answered]

    times, threads, connections, answered = asyncio.run(scene())

    assert sorted(times)[len(times) // 2] < 0.5
    assert threads < 40
    assert {state for _, state in answered} == {"succeeded"}
    # Far sooner than their 30 seconds; the rest is 200 answers on a busy machine.
    assert max(after for after, _ in answered) < 10
    assert connections < 20


def test_waiting_ends_with_its_seconds_and_shows_the_run_as_it_is(server):
    url, _ = server
    run = new_run(new_job())

    started = time.monotonic()
    answer = httpx.get(f"{url}/api/v1/runs/{run.pk}?wait=0.5", headers={"Authorization": f"Bearer {token_text()}"})

    assert 0.4 < time.monotonic() - started < 3
    assert answer.json()["state"] == "running"


def test_an_ended_run_is_answered_at_once(server):
    url, _ = server
    run = new_run(new_job(), RunState.FAILED)

    started = time.monotonic()
    answer = httpx.get(f"{url}/api/v1/runs/{run.pk}?wait=30", headers={"Authorization": f"Bearer {token_text()}"})

    assert time.monotonic() - started < 2
    assert answer.json()["state"] == "failed"


def test_the_server_refuses_in_the_one_shape(server):
    url, _ = server
    headers = {"Authorization": f"Bearer {token_text()}"}

    answers = [
        httpx.get(f"{url}/api/v1/nothing", headers=headers),
        httpx.get(f"{url}/api/v1/runs"),
        httpx.get(f"{url}/api/v1/runs", headers={**headers, "Host": "evil.example"}),
        httpx.post(f"{url}/v1/jobs/trigger", headers=headers, content=b"x" * (2 << 20)),
        httpx.get(f"{url}/v1/jobs/trigger", headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [404, 401, 400, 413, 405]
    assert all(set(answer.json()) == {"code", "message", "details"} for answer in answers)


def test_probes_and_metrics_answer_on_this_machine(server):
    url, _ = server

    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json()["dependencies"]["database"] == "ok"
    assert "upbeat_open_runs" in httpx.get(f"{url}/metrics").text
    assert httpx.get(f"{url}/metrics", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401
