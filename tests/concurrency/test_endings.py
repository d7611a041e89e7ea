"""Processes that are asked to end: one after the other under load, in mid-query, and with a task that outlasts its time."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from tests.concurrency.kill_load import Cluster
from tests.support.processes import Process, beat, worker
from tests.support.waiting import eventually

pytestmark = pytest.mark.kill

#: No task of them is idempotent: one that is cut short fails its run, one that runs twice stands twice in the witness.
STEADY = """
kind: Job
name: steady
parameters: [{name: witness, type: string}]
tasks:
  - {name: a, type: shell, command: 'sleep 0.3; echo "$UPBEAT_RUN_ID a" >> "$W"', env: {W: "${params.witness}"}}
  - {name: b, type: shell, command: 'sleep 1; echo "$UPBEAT_RUN_ID b" >> "$W"', env: {W: "${params.witness}"}, depends_on: [a]}
  - {name: c, type: shell, command: 'sleep 0.3; echo "$UPBEAT_RUN_ID c" >> "$W"', env: {W: "${params.witness}"}, depends_on: [a]}
  - {name: d, type: noop, depends_on: [b, c]}
---
kind: Job
name: outlasting
tasks:
  - name: long
    type: shell
    idempotent: true
    command: 'if test "$UPBEAT_ATTEMPT" = 1; then sleep 300; fi'
"""
RUNS = 16


both_brokers = pytest.mark.parametrize("cluster", ["redis", "rabbitmq"], indirect=True)
one_broker = pytest.mark.parametrize("cluster", ["rabbitmq"], indirect=True)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster(request.param, tmp_path_factory.mktemp("endings"), stack, random.Random(1))
        stack.callback(cluster.stop)
        cluster.manage("migrate", "--verbosity", "0")
        cluster.apply(STEADY)
        yield cluster


def generation(cluster: Cluster, number: int, stack: ExitStack, **environ: str) -> dict[str, Process]:
    """Make a worker, a control worker and a beat of one generation, not yet started."""
    told, logs = {**cluster.environ, **environ}, cluster.home / "logs"
    made = {
        "worker": worker(
            f"worker-{number}", "-P", "threads", "-c", "4", queues="default,long,bulk",
            environ=told, log=logs / f"worker-{number}.log",
        ),
        "control": worker(
            f"control-{number}", "-P", "threads", "-c", "4", queues="control",
            environ={**told, "UPBEAT_DATABASE_POOL": "6"}, log=logs / f"control-{number}.log",
        ),
        "beat": beat(f"beat-{number}", environ=told, log=logs / f"beat-{number}.log"),
    }  # fmt: skip
    for process in made.values():
        stack.callback(process.stop)
    return made


def start(*processes: Process) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.wait_for_output("beat: Starting" if "beat" in process.name else "ready.", within=90)


def ended(process: Process) -> None:
    """Ask it to end and see that it does so by itself."""
    process.terminate()
    eventually(lambda: not process.running, within=60, saying=f"{process.name} ends: {process.output()[-2000:]}")
    assert process.exit_code == 0, process.output()[-4000:]


def states(cluster: Cluster, job: str) -> dict[str, int]:
    rows = cluster.ask(
        "select r.state, count(*)::int from orchestrator_jobrun r join orchestrator_job j on j.id = r.job_id"
        f" where j.name = '{job}' group by 1"
    )
    return {str(state): int(str(count)) for state, count in rows}


@both_brokers
def test_restarting_every_process_under_load_loses_no_task_and_doubles_none(cluster: Cluster) -> None:
    witness = cluster.home / "witness"
    with ExitStack() as stack:
        old, new = (generation(cluster, number, stack) for number in (1, 2))
        start(*old.values())
        cluster.manage(
            "shell", "--verbosity", "0", "--command",
            "from django.core.management import call_command\n"
            f"for number in range({RUNS}): call_command('trigger', 'steady', '--param', 'witness={witness}')",
        )  # fmt: skip
        eventually(lambda: witness.exists(), within=60, saying="tasks run")

        for name in ("worker", "control", "beat"):
            start(new[name])
            ended(old[name])

        eventually(
            lambda: states(cluster, "steady") == {"succeeded": RUNS},
            within=120,
            saying=f"all runs succeed: {states(cluster, 'steady')}",
        )
        lines = Counter(witness.read_text().splitlines())
        assert len(lines) == 3 * RUNS
        assert set(lines.values()) == {1}
        assert cluster.ask("select max(number)::int, bool_or(state = 'lost') from orchestrator_attempt") == [(1, False)]
        for process in new.values():
            ended(process)


@one_broker
def test_a_task_that_outlasts_its_time_ends_with_its_worker_and_runs_again_on_another(cluster: Cluster) -> None:
    with ExitStack() as stack:
        short = {"UPBEAT_WORKER_STOP_SECONDS": "1", "UPBEAT_LEASE_SECONDS": "6"}
        first = generation(cluster, 3, stack, **short)
        other = generation(cluster, 4, stack, **short)["worker"]
        start(*first.values())
        cluster.manage("trigger", "outlasting")
        eventually(
            lambda: cluster.ask("select 1 from orchestrator_attempt where state = 'running'"),
            within=60,
            saying="it runs",
        )

        first["worker"].terminate()
        eventually(lambda: not first["worker"].running, within=30, saying="the worker ends")
        assert first["worker"].exit_code != 0, "it could not wait for all of its tasks"
        start(other)

        eventually(lambda: states(cluster, "outlasting") == {"succeeded": 1}, within=90, saying="it runs again")


@one_broker
def test_a_beat_that_is_asked_in_the_middle_of_a_query_ends_in_order(cluster: Cluster) -> None:
    with ExitStack() as stack, psycopg.connect(cluster.postgres.url) as other:
        leading = generation(cluster, 5, stack)["beat"]
        epoch = cluster.leader("beat")[1]
        start(leading)
        eventually(lambda: cluster.leader("beat")[1] > epoch, within=30, saying="it leads")
        # It renews its lead twice a second, and now waits for this row in the middle of its statement.
        other.execute("select 1 from orchestrator_lease where name = 'beat' for update")
        eventually(
            lambda: cluster.ask("select 1 from pg_stat_activity where wait_event_type = 'Lock'"),
            within=20,
            saying="it waits for the row",
        )

        leading.terminate()
        threading.Timer(2, other.rollback).start()

        eventually(lambda: not leading.running, within=30, saying="it ends")
        assert leading.exit_code == 0, leading.output()[-4000:]
