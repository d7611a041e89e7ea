from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client

from orchestrator import metrics
from orchestrator.states import RunState, TaskState
from tests.support.records import new_job, new_run, new_task_run, token_text

_COUNT = """
import os, sys
from orchestrator import metrics
for _ in range(1000):
    metrics.CLAIMS.labels("claimed").inc()
    metrics.QUEUE_WAIT.labels("default").observe(0.02)
if os.fork() == 0:
    metrics.CLAIMS.labels("claimed").inc(5)
    metrics.SETTLES.labels("lost").inc()
    os.kill(os.getpid(), 9)
os.wait()
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(metrics, "directory", lambda: tmp_path)
    return tmp_path


def counting_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _COUNT],
        env={**os.environ, "UPBEAT_METRICS_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def value_of(text: str, sample: str) -> float:
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(sample + " ")))


def test_killed_processes_and_their_children_lose_no_count(folder):
    processes = [counting_process(folder) for _ in range(3)]
    try:
        alive = metrics.exposition().decode()
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        dead = metrics.exposition().decode()
        again = metrics.exposition().decode()
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    for text in (alive, dead, again):
        assert value_of(text, 'upbeat_claims_total{result="claimed"}') == 3015
        assert value_of(text, 'upbeat_settles_total{state="lost"}') == 3
        assert value_of(text, 'upbeat_queue_wait_seconds_count{pool="default"}') == 3000
        assert value_of(text, 'upbeat_queue_wait_seconds_bucket{le="0.01",pool="default"}') == 0
        assert value_of(text, 'upbeat_queue_wait_seconds_bucket{le="0.025",pool="default"}') == 3000
    assert sorted(path.name for path in folder.glob("*.db")) == ["counter_dead.db", "histogram_dead.db"]


def test_a_file_grows_with_its_labels(folder):
    values = metrics._Values(folder / "counter_many.db")
    for number in range(2000):
        values.add(values.position(metrics.HEALS._key("upbeat_heals", "_total", (f"cause-{number}",))), 1)

    text = metrics.exposition().decode()
    values.close()

    assert text.count("upbeat_heals_total{") == 2000


def test_counting_goes_on_in_silence_where_the_directory_cannot_be_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(metrics, "directory", lambda: tmp_path / "file" / "below")
    monkeypatch.setattr(metrics, "_process", metrics._Process())
    counter = metrics.CounterChild("counter", ["key"])

    counter.inc()
    counter.inc()

    assert "metrics are off" in caplog.text
    assert metrics.exposition() == b""


def test_every_metric_says_its_unit_or_what_it_counts():
    names = [metric.name for metric in metrics.METRICS]

    assert len(set(names)) == len(names)
    for metric in metrics.METRICS:
        assert metric.name.startswith("upbeat_")
        assert metric.name.endswith(("_total", "_seconds"))
        assert metric.help_text.endswith(".")


@pytest.mark.django_db
def test_a_scrape_shows_what_waits_in_the_ledger():
    run = new_run(new_job(), RunState.RUNNING)
    new_task_run(run, state=TaskState.READY)

    text = Client().get("/metrics").content.decode()

    assert value_of(text, 'upbeat_open_runs{state="running"}') == 1
    assert value_of(text, "upbeat_ready_tasks") == 1
    assert value_of(text, "upbeat_oldest_ready_task_seconds") < 60


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("203.0.113.9", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, 401),
        ("", {}, 401),
    ],
)
def test_metrics_are_for_this_machine_or_a_token(peer, headers, status):
    assert Client().get("/metrics", REMOTE_ADDR=peer, headers=headers).status_code == status


@pytest.mark.django_db
def test_a_token_that_may_read_gets_the_metrics_from_anywhere():
    headers = {"Authorization": f"Bearer {token_text('read')}"}

    assert Client().get("/metrics", REMOTE_ADDR="203.0.113.9", headers=headers).status_code == 200
