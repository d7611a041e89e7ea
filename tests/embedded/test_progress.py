"""What a real worker reports of itself to its supervisor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from orchestrator.embedded import progress
from tests.support import services
from tests.support.processes import Process, python
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def facts(beat: Path) -> dict[str, Any]:
    try:
        return json.loads(beat.read_text())
    except (OSError, ValueError):
        return {}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_reports_its_turning_loop_and_what_it_accepted(
    own_redis: services.RedisServer, tmp_path: Path, pool: str
) -> None:
    beat = tmp_path / "worker.beat"
    with _worker(own_redis.url, beat, pool) as worker:
        eventually(beat.exists, within=30, saying=f"first report; {worker.output()}")
        first = beat.stat().st_mtime
        assert facts(beat) == {"accepted": 0, "free": True}

        Celery(broker=own_redis.url).send_task("nap", (6,))

        eventually(lambda: facts(beat).get("accepted") == 1, within=10)
        eventually(lambda: facts(beat).get("free") is False, within=10)
        assert beat.stat().st_mtime > first


def test_a_frozen_worker_stops_reporting(own_redis: services.RedisServer, tmp_path: Path) -> None:
    beat = tmp_path / "worker.beat"
    with _worker(own_redis.url, beat, "prefork") as worker:
        eventually(beat.exists, within=30)
        worker.pause()
        beat.write_text("")

        with pytest.raises(AssertionError):
            eventually(lambda: facts(beat), within=2 * progress.EVERY_SECONDS)
        worker.resume()
        eventually(lambda: facts(beat), within=10)


def test_without_a_supervisor_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPBEAT_PROGRESS_FILE", raising=False)
    monkeypatch.chdir(tmp_path)

    progress.report("reconciler")

    assert list(tmp_path.iterdir()) == []


def test_each_part_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPBEAT_PROGRESS_FILE", str(tmp_path / "beat.beat"))
    monkeypatch.setattr(progress, "_last", {})

    progress.report()
    progress.report("reconciler")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["beat.beat", "beat.beat.reconciler"]


def test_a_disk_that_takes_nothing_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPBEAT_PROGRESS_FILE", "/dev/full")
    monkeypatch.setattr(progress, "_last", {})

    progress.report(accepted=1)


def _worker(broker: str, beat: Path, pool: str) -> Process:
    return python(
        "worker",
        *("-m", "celery", "-A", "tests.embedded.progress_app", "worker", "--pool", pool, "-c", "1"),
        *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
        environ={"BROKER": broker, "UPBEAT_PROGRESS_FILE": str(beat)},
        log=beat.with_suffix(".log"),
    )
