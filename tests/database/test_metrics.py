from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import transaction
from django.test import Client

from orchestrator import metrics
from orchestrator.services.runs import cancel_run, start_run
from orchestrator.states import RunState, TaskState
from tests.support.records import new_job, new_run, new_task_run, token_text

#: As in a worker: Celery's command line, and with it Flower's plugin and the library, come first.
_COUNT = """
import celery.bin.celery, os, sys
from orchestrator import metrics
for _ in range(1000):
    metrics.CLAIMS.labels("claimed").inc()
    metrics.QUEUE_WAIT.labels("default").observe(0.02)
for _ in range(2):
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


def python(code: str, folder: Path) -> subprocess.Popen[str]:
    # The supervisor has it not in its environment: it would switch the library for Flower too.
    inherited = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**inherited, "UPBEAT_METRICS_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def counting_process(folder: Path) -> subprocess.Popen[str]:
    process = python(_COUNT, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def value_of(text: str, sample: str) -> float:
    return float(next((line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(sample + " ")), "0"))


def test_killed_processes_and_their_children_lose_no_count(folder):
    processes = [counting_process(folder) for _ in range(2)]
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
        assert value_of(text, 'upbeat_claims_total{result="claimed"}') == 2020
        assert value_of(text, 'upbeat_settles_total{state="lost"}') == 4
        assert value_of(text, 'upbeat_queue_wait_seconds_count{pool="default"}') == 2000
        assert value_of(text, 'upbeat_queue_wait_seconds_bucket{le="0.01",pool="default"}') == 0
        assert value_of(text, 'upbeat_queue_wait_seconds_bucket{le="0.025",pool="default"}') == 2000
    assert sorted(path.name for path in folder.glob("*.db")) == ["counter_dead.db", "histogram_dead.db"]


def test_files_of_the_dead_do_not_pile_up_where_nobody_scrapes(folder):
    for _ in range(3):
        python("from orchestrator import metrics; metrics.RUNS_STARTED.inc()", folder).communicate()

    assert len(list(folder.glob("*.db"))) == 4
    assert value_of(metrics.exposition().decode(), "upbeat_runs_started_total") == 3


def test_a_damaged_file_ends_no_scrape(folder):
    (folder / "counter_1-empty.db").write_bytes(b"")
    (folder / "histogram_1-torn.db").write_bytes(b"\xff\x0f\0\0" + b"\x7f" * 4092)
    python("from orchestrator import metrics; metrics.RUNS_STARTED.inc()", folder).communicate()

    assert value_of(metrics.exposition().decode(), "upbeat_runs_started_total") == 1


def test_metrics_of_another_library_stay_out_of_ours(folder):
    code = """
import prometheus_client
from orchestrator import metrics
prometheus_client.Counter("theirs", "Not ours.").inc()
metrics.RUNS_STARTED.inc()
print(prometheus_client.generate_latest().decode())
"""
    theirs = python(code, folder).communicate()[0]

    assert value_of(theirs, "theirs_total") == 1
    assert "upbeat" not in theirs
    assert "theirs" not in metrics.exposition().decode()


def test_each_process_counts_for_itself_where_the_directory_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    code = """
from orchestrator import metrics
metrics.RUNS_STARTED.inc()
metrics.CLAIMS.labels("claimed").inc()
print(metrics.exposition().decode())
"""
    said, warned = python(code, tmp_path / "file" / "below").communicate()

    assert value_of(said, "upbeat_runs_started_total") == 1
    assert warned.count("metrics are off") == 1


def test_a_directory_that_goes_away_breaks_no_work(tmp_path):
    code = """
import os, shutil
from orchestrator import metrics
shutil.rmtree(metrics.directory())
metrics.directory().write_text("in the way")
if os.fork() == 0:
    metrics.RUNS_STARTED.inc()
    metrics.QUEUE_WAIT.labels("default").observe(1)
    metrics.QUEUE_WAIT.labels("default").observe(1)
    print("worked", metrics.exposition(), flush=True)
    os._exit(0)
os.wait()
"""
    said, warned = python(code, tmp_path / "metrics").communicate()

    assert said == "worked b''\n"
    assert warned.count("metrics are off") == 1


def test_commands_that_do_not_count_do_not_load_the_library():
    code = """
import sys, django
django.setup()
import orchestrator.management.commands.validate, orchestrator.embedded.launcher
import os
print("prometheus_client" in sys.modules, "PROMETHEUS_MULTIPROC_DIR" in os.environ)
"""
    assert python(code, Path("unused")).communicate()[0] == "False False\n"


def test_every_metric_says_its_unit_or_what_it_counts():
    families = [family for metric in metrics.METRICS for family in metric.describe()]

    assert len({family.name for family in families}) == len(families) == 9
    for family in families:
        assert family.name.startswith("upbeat_")
        assert family.type == "counter" or family.name.endswith("_seconds")
        assert family.type == "counter" or family.documentation.startswith("Seconds ")
        assert family.documentation.endswith(".")


def counted() -> tuple[float, float]:
    text = metrics.exposition().decode()
    return value_of(text, "upbeat_runs_started_total"), value_of(text, 'upbeat_runs_ended_total{state="cancelled"}')


@pytest.mark.django_db
def test_a_run_counts_once_when_it_starts_and_once_when_it_ends(django_capture_on_commit_callbacks):
    job = new_job()
    call = {"tenant": job.tenant, "job_name": job.name, "parameters": {}, "trigger": {"kind": "api", "by": "test"}}
    started, ended = counted()

    with django_capture_on_commit_callbacks(execute=True):
        run = start_run(**call, trigger_key="once").run
        start_run(**call, trigger_key="once")
    with django_capture_on_commit_callbacks(execute=True):
        cancel_run(run.pk, by="test")
        cancel_run(run.pk, by="test")
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        start_run(**call)
        transaction.set_rollback(True)

    assert counted() == (started + 1, ended + 1)


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
