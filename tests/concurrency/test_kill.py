"""SIGKILL, SIGSTOP and emptied brokers against real processes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from tests.concurrency.kill_load import Cluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.kill


def test_a_lost_worker_leaves_no_process_and_its_idempotent_task_runs_again_within_30_seconds(
    cluster: Cluster, tmp_path: Path
) -> None:
    marker = f"8{random.randrange(10**6):06d}"
    cluster.apply(
        f"""
kind: Job
name: long
tasks:
  - {{name: sleeps, type: shell, idempotent: true, command: "setsid sleep {marker} & sleep {marker}"}}
""",
    )
    worker, other = cluster.workers
    worker.start()
    cluster.control.start()
    cluster.beats[0].start()
    cluster.manage("trigger", "long")
    eventually(lambda: sleepers(marker), within=30, saying="the task runs")
    time.sleep(16)  # one lease: the reconciler expires nothing before it has seen the database for so long

    worker.kill_tree()
    killed_at = time.monotonic()
    other.start()

    eventually(lambda: not sleepers(marker) or attempts(cluster) == 2, within=10, saying="the tree is gone")
    eventually(lambda: attempts(cluster) == 2, within=30 - (time.monotonic() - killed_at), saying="it runs again")
    assert cluster.ask("select state from orchestrator_attempt where number = 1") == [("lost",)]


def test_a_lost_worker_of_a_task_that_is_not_idempotent_fails_the_run_for_a_person_to_decide(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.apply("kind: Job\nname: once\ntasks:\n  - {name: pays, type: shell, command: sleep 600}\n")
    worker, other = cluster.workers
    worker.start()
    cluster.control.start()
    cluster.beats[0].start()
    cluster.manage("trigger", "once")
    eventually(lambda: attempts(cluster) == 1, within=30, saying="the task runs")

    worker.kill_tree()
    other.start()

    eventually(
        lambda: cluster.ask("select state, reason from orchestrator_jobrun") == [("failed", "pays failed")],
        within=60,
        saying="the run fails",
    )
    assert attempts(cluster) == 1


def test_a_broker_emptied_in_mid_run_costs_time_but_no_run(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(
        """
kind: Job
name: wide
tasks:
  - {name: first, type: shell, idempotent: true, command: sleep 0.2}
"""
        + "".join(
            f"  - {{name: t{n}, type: shell, idempotent: true, command: sleep 0.2, depends_on: [first]}}\n"
            for n in range(30)
        )
        + f"  - {{name: last, type: noop, idempotent: true, depends_on: [{', '.join(f't{n}' for n in range(30))}]}}\n",
    )
    cluster.start()
    cluster.manage("trigger", "wide")
    eventually(
        lambda: cluster.ask("select 1 from orchestrator_taskrun where state = 'succeeded' and position > 3"), within=40
    )

    cluster.empty_broker()

    eventually(
        lambda: cluster.ask("select state from orchestrator_jobrun") == [("succeeded",)],
        within=60,
        saying="the run finishes",
    )


def test_a_cancelled_and_a_timed_out_task_leave_no_process_behind(cluster: Cluster, tmp_path: Path) -> None:
    marker = f"9{random.randrange(10**6):06d}"
    tree = f"(setsid sh -c 'trap : TERM; sleep {marker}; sleep {marker}') & sleep {marker}"
    cluster.apply(f'kind: Job\nname: cancelled\ntasks:\n  - {{name: sleeps, type: shell, command: "{tree}"}}\n')
    worker = cluster.workers[0]
    worker.start()
    cluster.beats[0].start()
    cluster.manage("trigger", "cancelled")
    eventually(lambda: len(sleepers(marker)) == 2, within=30, saying="the tree runs")

    cluster.manage("shell", "-c", "from orchestrator.services.runs import cancel_run; cancel_run(1, by='a test')")

    eventually(lambda: not sleepers(marker), within=20, saying="the tree is gone")
    eventually(lambda: cluster.ask("select state from orchestrator_jobrun") == [("cancelled",)], within=20)
    cluster.apply(f"kind: Job\nname: late\ntasks:\n  - {{name: sleeps, type: shell, timeout: 2, command: \"{tree}\"}}\n",
    )  # fmt: skip
    cluster.manage("trigger", "late")
    eventually(lambda: len(sleepers(marker)) == 2, within=10, saying="the tree runs")
    eventually(lambda: not sleepers(marker), within=20, saying="the tree is gone")
    eventually(
        lambda: (
            [state for (state,) in cluster.ask("select state from orchestrator_jobrun order by id")][1:] == ["failed"]
        ),
        within=20,
        saying="a timed-out task fails its run",
    )


def sleepers(marker: str) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", marker]]


def attempts(cluster: Cluster) -> int:
    return int(str(cluster.ask("select count(*) from orchestrator_attempt")[0][0]))


def test_a_worker_reports_its_lanes_again_once_the_database_is_back(cluster: Cluster) -> None:
    worker = cluster.workers[1]
    worker.start()
    reports = "select min(seen_at), count(*) from orchestrator_laneworker where seen_at > now() - interval '9 s'"
    eventually(lambda: cluster.ask(reports)[0][1] == 3, within=30, saying="it reports all of its lanes")

    cluster.postgres.kill()
    time.sleep(12)
    cluster.postgres.start()
    cluster.ask("update orchestrator_laneworker set seen_at = now() - interval '1 hour' returning 1")

    eventually(lambda: cluster.ask(reports)[0][1] == 3, within=25, saying="it reports again")
    assert worker.running
