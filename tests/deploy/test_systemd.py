"""The units of deploy/systemd: systemd accepts them, and they run what the compose file runs, with options that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.conf import OPTIONS
from orchestrator.endings import GRACE_SECONDS
from tests.deploy.test_compose import COMPOSE, SERVICES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/systemd"
COMMON = FOLDER / "upbeat-.service.d/common.conf"
#: Unit → service of the compose file.
UNITS = {
    "upbeat-web.service": "web",
    "upbeat-worker@.service": "worker",
    "upbeat-control.service": "control",
    "upbeat-beat.service": "beat",
    "upbeat-listeners.service": "listeners",
    "upbeat-flower.service": "flower",
}
#: What is said where addresses and names of hosts differ on purpose.
OF_THE_HOST = {
    "0.0.0.0": "127.0.0.1",
    "worker@%h": "worker-%i@%h",
    "/run/secrets/": "%d/",
    "exec celery": "exec PROGRAM",
}


def settings(path: Path) -> list[tuple[str, str]]:
    """The `Key=value` lines of a unit, in their order."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#["]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def values(path: Path, key: str) -> list[str]:
    return [value for name, value in settings(path) if name == key]


def environment(path: Path) -> dict[str, str]:
    return dict(value.split("=", 1) for value in values(path, "Environment"))


def test_every_process_that_stays_has_a_unit() -> None:
    ours = {name for name, service in SERVICES.items() if "build" in service and "healthcheck" in service}

    assert set(UNITS.values()) == ours
    assert {path.name for path in FOLDER.glob("*.service")} == set(UNITS)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_a_unit(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        # Another system's: what can be told without it is that each line is a setting of a section.
        assert all(re.fullmatch(r"[A-Z]\w+", key) and value for key, value in settings(FOLDER / unit))
        return
    for path in FOLDER.rglob("*.*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(FOLDER).as_posix().replace("@.", "@1.")
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(path.read_text().replace("/opt/upbeat", str(ROOT)))

    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit.replace("@.", "@1."))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    said = [line for line in (done.stdout + done.stderr).splitlines() if "upbeat" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("unit", "service"), UNITS.items())
def test_a_unit_runs_what_the_compose_file_runs(unit: str, service: str) -> None:
    (started,) = values(FOLDER / unit, "ExecStart")
    told = [word.replace("%%", "%").replace("/opt/upbeat/.venv/bin/celery", "PROGRAM") for word in shlex.split(started)]
    expected = [str(word) for word in SERVICES[service]["command"]]
    for theirs, ours in OF_THE_HOST.items():
        expected = [word.replace(theirs, ours) for word in expected]

    assert told[0] in ("/opt/upbeat/.venv/bin/python", "/bin/sh", "PROGRAM")
    assert told[1:] == expected[1:]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_sets_only_options_that_the_code_reads_and_as_the_compose_file_does(unit: str) -> None:
    known = {option.name for option in OPTIONS} | {f"{option.name}_FILE" for option in OPTIONS if option.secret}
    pools = {key: str(value) for key, value in SERVICES[UNITS[unit]]["environment"].items() if "POOL" in key}
    file = dict(
        line.split("=", 1) for line in (FOLDER / "upbeat.env").read_text().splitlines() if line.startswith("UPBEAT_")
    )

    assert set(environment(COMMON)) | set(environment(FOLDER / unit)) | set(file) <= known
    assert environment(FOLDER / unit) == pools


def test_every_secret_is_one_that_the_script_writes_and_is_handed_over() -> None:
    paths = [*FOLDER.glob("*.service"), COMMON]
    handed = {value for path in paths for value in values(path, "LoadCredential")}
    names = {name for name, _, _ in (value.partition(":") for value in handed)}
    text = "".join(path.read_text() for path in paths)

    assert {path.rpartition("/")[2] for value in handed for path in [value.partition(":")[2]]} == names
    assert names <= set(COMPOSE["secrets"])
    assert set(re.findall(r"%d/(\w+)", text)) == names


def test_what_ends_is_started_again_and_a_command_that_is_run_once_is_not() -> None:
    assert [values(FOLDER / unit, "Restart") for unit in UNITS] == [["always"]] * len(UNITS)
    assert values(COMMON, "Restart") == [], "transient units get the common file as well"


def test_tasks_are_not_ended_with_their_worker_and_get_their_time() -> None:
    assert values(COMMON, "KillMode") == ["mixed"]
    (seconds,) = re.findall(r"^UPBEAT_WORKER_STOP_SECONDS=(\d+)$", (FOLDER / "upbeat.env").read_text(), re.MULTILINE)
    assert int(values(COMMON, "TimeoutStopSec")[0]) > int(seconds) + GRACE_SECONDS
