"""The README's first run, as a person does it: `make demo`, the two curl commands, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.processes import ROOT, Process
from tests.support.services import free_port
from tests.support.waiting import eventually

README = (ROOT / "README.md").read_text()


class Demo:
    """`make demo` on free ports, with a home of its own."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.home = directory / "home"
        self.port, self.flower_port = free_port(), free_port()
        self.environ = {
            "UPBEAT_HOME": str(self.home),
            "UPBEAT_PORT": str(self.port),
            "UPBEAT_FLOWER_PORT": str(self.flower_port),
            **environ,
        }
        # Nothing of the test run's own settings may help.
        self.base = {
            key: value
            for key, value in os.environ.items()
            if key == "UPBEAT_TEST_RUN" or not key.startswith(("UPBEAT_", "DJANGO_", "PYTEST_"))
        }
        self.log = directory / "demo.log"
        self.process = self._process()

    def _process(self) -> Process:
        process = Process("make demo", ["make", "--no-print-directory", "demo"], environ={}, log=self.log)
        process.environ = {**self.base, **self.environ}
        return process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start it and return the seconds until it said that it is ready."""
        self.log.unlink(missing_ok=True)
        self.process = self._process().start()
        began = time.monotonic()
        self.process.wait_for_output("Upbeat is ready", within=120)
        return time.monotonic() - began

    def press_ctrl_c(self) -> float:
        """Signal the terminal's whole foreground group, once, and return the seconds until it has ended."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        eventually(lambda: not self.process.running, within=40, saying="make demo ends")
        return time.monotonic() - began

    def below(self) -> list[psutil.Process]:
        """Every living process that has this home in its environment."""
        return processes_with(str(self.home))

    def supervisor(self) -> psutil.Process:
        return next(p for p in self.process.tree() if "manage.py" in " ".join(p.cmdline()))

    def readme_curls(self) -> list[str]:
        """The curl commands of the README, with this demo's address and files."""
        commands = re.findall(r"^(curl -sS -H @.*?[^\\])$", README, flags=re.MULTILINE | re.DOTALL)
        assert len(commands) == 2
        return [
            command.replace("http://127.0.0.1:8000", self.url).replace("@.upbeat/", f"@{self.home}/")
            for command in commands
        ]

    def readme_webhook(self) -> str:
        """The commands of the README that sign an event and send it."""
        found = re.search(r"^(body=.*?webhook-url\)\")$", README, flags=re.MULTILINE | re.DOTALL)
        assert found is not None
        return found[1].replace(".upbeat/", f"{self.home}/")

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in another terminal, which knows the home and nothing else."""
        return subprocess.run(
            [str(ROOT / ".venv/bin/python"), "manage.py", *arguments],
            cwd=ROOT,
            env={**self.base, "UPBEAT_HOME": str(self.home), "UPBEAT_PORT": str(self.port)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def close(self) -> None:
        with contextlib.suppress(AssertionError, ProcessLookupError):
            if self.process.running:
                self.press_ctrl_c()
        # Valkey writes its title over its environment: only its record names it.
        recorded = [json.loads(file.read_text())["pid"] for file in (self.home / "run").glob("*.json")]
        for process in [*self.below(), *(psutil.Process(pid) for pid in recorded if psutil.pid_exists(pid))]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def processes_with(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(text in value for value in (*process.environ().values(), *process.cmdline())):
                found.append(process)
    return found


def shell(command: str) -> dict[str, Any]:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def follow_readme(demo: Demo) -> dict[str, Any]:
    """Run the README's two commands and return the run as the second one shows it."""
    trigger, wait = demo.readme_curls()
    answer = shell(trigger)
    assert answer["created"] is True
    return shell(wait.replace("/runs/1?", f"/runs/{answer['id']}?"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    demo.seconds = demo.start()  # type: ignore[attr-defined]  # the first test's evidence
    yield demo
    demo.close()


def test_it_is_ready_within_ninety_seconds(demo: Demo) -> None:
    assert demo.seconds < 90  # type: ignore[attr-defined]


def test_the_readmes_commands_end_in_a_finished_dag(demo: Demo) -> None:
    run = follow_readme(demo)

    assert run["state"] == "succeeded", run
    tasks = api(demo, f"runs/{run['id']}/task-runs")["items"]
    assert {task["task"]: task["state"] for task in tasks} == {
        "check_release": "succeeded",
        "sync_customers": "succeeded",
        "sync_orders": "succeeded",
        "sync_products": "succeeded",
        "compare": "succeeded",
        "announce": "succeeded",
        "report_gap": "skipped",
    }


def test_the_readmes_webhook_starts_a_job_once(demo: Demo) -> None:
    answer = shell(demo.readme_webhook())
    again = shell(demo.readme_webhook())

    assert answer["duplicate"] is False
    assert again == {"eventId": answer["eventId"], "duplicate": True}
    event = api(demo, f"events/{answer['eventId']}")
    assert [firing["outcome"] for firing in event["firings"]] == ["fired"]
    (run,) = event["runs"]
    ended = api(demo, f"runs/{run['id']}?wait=30")
    assert (ended["job"], ended["state"]) == ("ship-order", "succeeded")
    assert ended["parameters"] == {"order": "o-1", "amount": 1999.99}


def test_a_call_of_the_webhook_that_is_not_signed_is_refused(demo: Demo) -> None:
    url = (demo.home / "webhook-url").read_text().strip()

    answered = httpx.post(url, json={"messageId": "x", "eventType": "order.created", "payload": {"amount": 5000}})

    assert answered.status_code == 401


def test_what_it_prints_is_what_the_readme_says(demo: Demo) -> None:
    output = demo.log.read_text()

    for command in (*demo.readme_curls(), demo.readme_webhook()):
        for line in (part.strip(" \\") for part in command.splitlines()):
            assert line in output


def test_every_example_job_succeeds(demo: Demo) -> None:
    for job in ("word-count", "import-with-a-bad-line"):
        answer = api(demo, "jobs/trigger", json={"jobName": job})

        assert api(demo, f"runs/{answer['id']}?wait=30")["state"] == "succeeded"


def test_the_password_and_the_token_are_for_their_owner_alone(demo: Demo) -> None:
    for name in (
        "admin-password",
        "token",
        "token-header",
        "webhook-secret",
        "webhook-url",
        "secret-key",
        "encryption-keys",
        "broker/url",
        "broker/server.conf",
    ):
        assert stat.S_IMODE((demo.home / name).stat().st_mode) == 0o600, name
    secrets = [(demo.home / name).read_text().strip() for name in ("admin-password", "token", "webhook-secret")]
    for process in demo.below():
        with contextlib.suppress(psutil.NoSuchProcess):
            assert not any(secret in " ".join(process.cmdline()) for secret in secrets)
    assert not any(secret in demo.log.read_text() for secret in secrets)


def test_the_generated_password_opens_the_admin_and_flower(demo: Demo) -> None:
    password = (demo.home / "admin-password").read_text().strip()
    with httpx.Client(base_url=demo.url, follow_redirects=True) as client:
        client.get("/admin/login/")
        page = client.post(
            "/admin/login/?next=/admin/",
            data={"username": "admin", "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]},
        )
        assert page.status_code == 200
        assert "Log out" in page.text or "logout" in page.text

    flower = f"http://127.0.0.1:{demo.flower_port}/"
    assert httpx.get(flower).status_code == 401
    assert httpx.get(flower, auth=("admin", password)).status_code == 200


def test_a_command_in_another_terminal_needs_only_the_home(demo: Demo) -> None:
    done = demo.manage("trigger", "word-count", "--param", "text=one two", "--wait", "30")

    assert done.returncode == 0, done.stdout + done.stderr


def test_flower_sees_the_workers(demo: Demo) -> None:
    password = (demo.home / "admin-password").read_text().strip()

    def workers() -> bool:
        page = httpx.get(f"http://127.0.0.1:{demo.flower_port}/workers", auth=("admin", password))
        return "worker@" in page.text and "control@" in page.text

    eventually(workers, within=20)


def test_flower_names_every_task_by_job_and_run_and_leads_back_to_it(demo: Demo) -> None:
    flower, auth = f"http://127.0.0.1:{demo.flower_port}", ("admin", (demo.home / "admin-password").read_text().strip())
    run = api(demo, "jobs/trigger", json={"jobName": "word-count", "parameters": {"text": "one two"}})["id"]
    assert api(demo, f"runs/{run}?wait=60")["state"] == "succeeded"

    def labels() -> dict[str, str]:
        tasks = httpx.get(f"{flower}/api/tasks", auth=auth, params={"search": f'args:"word-count #{run} "'}).json()
        return {task["args"]: uuid for uuid, task in tasks.items()}

    eventually(lambda: set(labels()) == {f"word-count #{run} count", f"word-count #{run} report"}, within=20)
    page = httpx.get(f"{flower}/task/{labels()[f'word-count #{run} count']}", auth=auth)

    assert "Job, run and task" in httpx.get(f"{flower}/tasks", auth=auth).text
    assert f'href="http://127.0.0.1:{demo.port}/admin/runs/{run}/"' in page.text
    # Of the addresses of this machine, the one that no other machine reaches.
    listening = [
        c.laddr.ip for p in demo.below() for c in p.net_connections() if c.laddr and c.laddr.port == demo.flower_port
    ]
    assert set(listening) == {"127.0.0.1"}


def test_a_worker_that_dies_in_the_middle_costs_time_and_no_run(demo: Demo) -> None:
    answer = api(
        demo, "jobs/trigger", json={"jobName": "data-sync-after-deployment", "parameters": {"version": "v2.0.0"}}
    )
    record = json.loads((demo.home / "run" / "worker.json").read_text())

    os.kill(record["pid"], signal.SIGKILL)

    assert api(demo, f"runs/{answer['id']}?wait=60")["state"] == "succeeded"
    assert json.loads((demo.home / "run" / "worker.json").read_text())["pid"] != record["pid"]


def test_the_next_start_adopts_what_survived_and_keeps_data_and_password(demo: Demo) -> None:
    password = (demo.home / "admin-password").read_text()
    pids = {file.name: json.loads(file.read_text())["pid"] for file in (demo.home / "run").glob("*.json")}
    demo.supervisor().kill()
    eventually(lambda: not demo.process.running, within=10)

    demo.start()

    assert {file.name: json.loads(file.read_text())["pid"] for file in (demo.home / "run").glob("*.json")} == pids
    assert demo.log.read_text().count("adopted") == len(pids) == 7
    assert (demo.home / "admin-password").read_text() == password
    assert api(demo, "runs/1")["state"] == "succeeded"
    assert follow_readme(demo)["state"] == "succeeded"


def test_a_second_one_in_the_same_home_says_who_is_there(demo: Demo) -> None:
    second = subprocess.run(
        ["make", "demo"], cwd=ROOT, env=demo.process.environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert second.returncode != 0
    assert f"is already in use by pid {demo.supervisor().pid}" in second.stderr


def test_one_ctrl_c_ends_every_process_within_twenty_seconds(demo: Demo, tmp_path: Path) -> None:
    mark = f"sleeper-{os.getpid()}-{free_port()}"
    job = tmp_path / "escape.yaml"
    job.write_text(
        "kind: Job\nname: escape\ntasks:\n  - name: flee\n    type: shell\n    command: |\n"
        f"      setsid sh -c 'sleep 600; echo {mark}' &\n      (setsid sh -c 'sleep 601; echo {mark}' &)\n"
        f"      trap '' TERM\n      sh -c 'sleep 602; echo {mark}'\n"
    )
    assert demo.manage("apply", str(job)).returncode == 0
    api(demo, "jobs/trigger", json={"jobName": "escape"})
    eventually(lambda: len(processes_with(mark)) >= 3, within=20)

    seconds = demo.press_ctrl_c()

    assert seconds < 20
    assert processes_with(mark) == []
    assert [" ".join(process.cmdline()) for process in demo.below()] == []
    assert "Stopped." in demo.log.read_text()


def test_a_port_in_use_is_named_with_the_variable_to_set(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", demo.flower_port))
        somebody.listen()
        demo.process.start()
        eventually(lambda: not demo.process.running, within=60)

    assert demo.process.exit_code != 0
    assert f"Port {demo.flower_port} is in use" in demo.log.read_text()
    assert "Set UPBEAT_FLOWER_PORT" in demo.log.read_text()
    assert demo.below() == []


def api(demo: Demo, path: str, *, json: dict[str, Any] | None = None) -> dict[str, Any]:
    name, _, value = (demo.home / "token-header").read_text().strip().partition(": ")
    answer = httpx.request(
        "POST" if json else "GET", f"{demo.url}/api/v1/{path}", headers={name: value}, json=json, timeout=70
    )
    assert answer.status_code < 300, answer.text
    return answer.json()
