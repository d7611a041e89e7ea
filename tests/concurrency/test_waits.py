"""Deferred attempts with real workers: they hold none, go on when they are due, and count for their chord once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.concurrency.kill_load import Cluster
from tests.support.processes import worker
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

WAITS = 200
SECONDS = 6
JOBS = "\n".join(
    [
        "kind: Job\nname: waits\ntasks:",
        *(f"  - {{name: w{number}, type: wait, for: {SECONDS}s}}" for number in range(WAITS)),
        f"  - {{name: end, type: noop, depends_on: [{', '.join(f'w{number}' for number in range(WAITS))}]}}",
        "---\nkind: Job\nname: quick\ntasks: [{name: works, type: noop}]",
        "---\nkind: Job\nname: one\ntasks: [{name: w, type: wait, for: 1500ms}, {name: next, type: noop, depends_on: [w]}]",
    ]
)


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker with one slot, a control worker and a beat, which has the timers."""
    tmp_path: Path = tmp_path_factory.mktemp("waits")
    with ExitStack() as stack:
        cluster = Cluster(request.param, tmp_path, stack, random.Random(1))
        stack.callback(cluster.stop)
        cluster.manage("migrate", "--verbosity", "0")
        log = tmp_path / "logs" / "single.log"
        single = worker("single", "-P", "threads", "-c", "1", queues="default", environ=cluster.environ, log=log)
        stack.callback(single.stop)
        for process in (single, cluster.control, cluster.beats[0]):
            process.start()
        cluster.apply(JOBS)
        yield cluster


def states(cluster: Cluster, job: str) -> dict[str, int]:
    query = (
        "select t.state, count(*)::int from orchestrator_taskrun t join orchestrator_jobrun r on r.id = t.run_id"
        f" join orchestrator_job j on j.id = r.job_id where j.name = '{job}' group by 1"
    )
    return {str(state): int(str(count)) for state, count in cluster.ask(query)}


def test_many_waits_hold_no_worker_and_their_chord_goes_on_after_the_last(cluster: Cluster) -> None:
    cluster.manage("trigger", "waits")
    eventually(lambda: states(cluster, "waits").get("deferred") == WAITS, within=30, saying="all wait")

    cluster.manage("trigger", "quick")
    eventually(lambda: states(cluster, "quick") == {"succeeded": 1}, within=5, saying="the only slot is free")

    eventually(lambda: states(cluster, "waits") == {"succeeded": WAITS + 1}, within=60, saying="all go on")
    attempts = cluster.ask(
        "select min(extract(epoch from a.ended_at - a.started_at))::float, count(*)::int, max(a.number)"
        " from orchestrator_attempt a join orchestrator_taskrun t on t.id = a.task_run_id"
        " join orchestrator_task k on k.id = t.task_id"
        " join orchestrator_jobrun r on r.id = t.run_id join orchestrator_job j on j.id = r.job_id"
        " where k.type = 'wait' and j.name = 'waits'",
    )
    ((shortest, count, last),) = attempts
    assert float(str(shortest)) >= SECONDS
    assert (count, last) == (WAITS, 1), "each went on as the attempt that it was"


def test_a_wait_goes_on_within_a_second_while_a_worker_is_free(cluster: Cluster) -> None:
    cluster.manage("trigger", "one")
    eventually(lambda: states(cluster, "one") == {"succeeded": 2}, within=30, saying="it goes on")

    ((seconds,),) = cluster.ask(
        "select extract(epoch from a.ended_at - a.started_at)::float from orchestrator_attempt a"
        " join orchestrator_taskrun t on t.id = a.task_run_id join orchestrator_task k on k.id = t.task_id"
        " join orchestrator_jobrun r on r.id = t.run_id join orchestrator_job j on j.id = r.job_id"
        " where k.type = 'wait' and j.name = 'one'",
    )
    # The promise is one second on a machine that has time for it.
    assert 1.5 <= float(str(seconds)) < 3.5
