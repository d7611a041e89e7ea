"""`manage.py run_triggers` as a person starts it, over a database of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import ROOT, Process
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.kill]

MANAGE = (sys.executable, str(ROOT / "manage.py"))


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    environ = {
        "UPBEAT_HOME": str(home),
        "UPBEAT_PROFILE": "embedded",
        "UPBEAT_DATABASE_URL": f"sqlite://{home / 'db.sqlite3'}",
        "UPBEAT_BROKER_URL": "redis://127.0.0.1:1/0",
        "UPBEAT_PROGRESS_FILE": str(home / "triggers.beat"),
        "UPBEAT_KAFKA_BOOTSTRAP": "",
        "UPBEAT_RABBITMQ_URL": "",
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.embedded",
    }
    subprocess.run([*MANAGE, "migrate", "--verbosity", "0"], env=os.environ | environ, check=True, timeout=120)
    return environ


@pytest.fixture
def triggers(environ: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    process = Process("triggers", (*MANAGE, "run_triggers"), environ=environ, log=tmp_path / "triggers.log")
    # Those of a test before, which were killed, hold their leases for a moment.
    eventually(lambda: not leaders(environ), within=10)
    process.start()
    known: list[psutil.Process] = []
    try:
        eventually(lambda: leaders(environ) == {"triggers.dlx-import", "triggers.timers"}, within=60)
        known = process.tree()
        yield process
    finally:
        process.kill_tree()
        for one in known:
            if one.is_running():
                one.kill()


def rows(environ: dict[str, str], query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(environ["UPBEAT_DATABASE_URL"].removeprefix("sqlite://"), timeout=20) as database:
        return database.execute(query).fetchall()


def leaders(environ: dict[str, str]) -> set[object]:
    """The roles that somebody leads now."""
    query = (
        "select name from orchestrator_lease where name like 'triggers.%' and julianday(expires_at) > julianday('now')"
    )
    return {name for (name,) in rows(environ, query)}


def check(environ: dict[str, str]) -> int:
    return subprocess.run(
        [*MANAGE, "run_triggers", "--check"], env=os.environ | environ, check=False, timeout=60
    ).returncode


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_it_leads_its_roles_reports_them_and_ends_in_order(triggers: Process, environ: dict[str, str]) -> None:
    everybody = triggers.tree()
    eventually(
        lambda: {kind for (kind,) in rows(environ, "select kind from triggers_listener")} == {"timers", "dlx-import"},
        within=15,
    )
    assert check(environ) == 0

    os.kill(triggers.pid, signal.SIGTERM)
    eventually(lambda: not triggers.running, within=20)

    assert triggers.exit_code == 0, triggers.output()[-3000:]
    assert gone(everybody)
    assert rows(environ, "select kind from triggers_listener") == [], "an end in order leaves no row"
    assert leaders(environ) == set()


def test_a_killed_child_is_replaced(triggers: Process, environ: dict[str, str]) -> None:
    [child] = triggers.children()

    child.kill()

    eventually(lambda: [one.pid for one in triggers.children() if one.pid != child.pid], within=20)
    eventually(lambda: leaders(environ) == {"triggers.dlx-import", "triggers.timers"}, within=30)


def test_children_end_when_their_supervisor_was_killed(triggers: Process) -> None:
    everybody = triggers.tree()

    os.kill(triggers.pid, signal.SIGKILL)

    eventually(lambda: gone(everybody), within=20)


def test_a_second_signal_ends_everything_at_once(triggers: Process) -> None:
    everybody = triggers.tree()
    for one in triggers.children():
        one.suspend()  # it will not end by itself

    os.kill(triggers.pid, signal.SIGTERM)
    os.kill(triggers.pid, signal.SIGINT)

    eventually(lambda: not triggers.running, within=5)
    assert triggers.exit_code == 1
    eventually(lambda: gone(everybody), within=5)


def test_the_check_says_when_nothing_runs(environ: dict[str, str], tmp_path: Path) -> None:
    assert check({**environ, "UPBEAT_PROGRESS_FILE": str(tmp_path / "none.beat")}) == 1


@pytest.mark.parametrize("arguments", [("--source", "no-such-source"), ("--role", "no-such-role")])
def test_an_unknown_source_or_role_is_refused(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*MANAGE, "run_triggers", *arguments], env=os.environ | environ, check=False, capture_output=True, timeout=60
    )

    assert done.returncode == 2
    assert b"no-such" in done.stderr
