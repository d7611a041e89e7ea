"""The processes of docker-compose.yml, as they are written there, on PostgreSQL with each broker, and the embedded
profile on a broker that is given by URL."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from orchestrator.embedded.home import random_key
from tests.acceptance.test_first_run import Demo, follow_readme
from tests.support import services
from tests.support.processes import ROOT, Process
from tests.support.waiting import eventually

#: The compose file gives each process 45 s. It must not need them, however slow the machine.
GRACE_SECONDS = 45
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


class Production(Demo):
    """The compose file's processes of ours on this machine, with its servers by URL."""

    def __init__(self, directory: Path, **urls: str) -> None:
        super().__init__(directory)
        self.directory = directory
        self.home.mkdir()
        self.environ |= {
            "UPBEAT_PROFILE": "production",
            "UPBEAT_SECRET_KEY": secrets.token_hex(16),
            "UPBEAT_ENCRYPTION_KEYS": random_key(),
            "UPBEAT_HOST": "127.0.0.1",
            **urls,
        }

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.base, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[Process]:
        found = []
        for name in ("web", "worker", "control", "beat", "beat"):
            values = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
            # Variables have their defaults, secrets come by value here.
            environ = {key: value for key, value in values.items() if not re.search(r"\$|/run/secrets/", value)}
            environ["UPBEAT_PROGRESS_FILE"] = str(self.directory / f"{name}-{len(found)}.progress")
            command = [
                part.replace("0.0.0.0", "127.0.0.1").replace("8000", str(self.port))
                for part in SERVICES[name]["command"]
            ]
            start = [sys.executable] if command[0] == "python" else [sys.executable, "-m", command[0]]
            log = self.directory / f"{name}-{len(found)}.log"
            process = Process(name, [*start, *command[1:]], environ={}, log=log)
            process.environ = {**self.base, **environ, **self.environ}
            found.append(process)
        return found


@pytest.fixture(params=["redis", "rabbitmq"])
def production(
    request: pytest.FixtureRequest, tmp_path: Path, own_postgres: services.PostgresServer
) -> Iterator[Production]:
    with ExitStack() as stack:
        redis = stack.enter_context(services.start_redis())
        urls = {"UPBEAT_DATABASE_URL": own_postgres.url, "UPBEAT_BROKER_URL": redis.url}
        if request.param == "rabbitmq":
            rabbitmq = stack.enter_context(services.start_rabbitmq())
            urls |= {"UPBEAT_BROKER_URL": rabbitmq.url, "UPBEAT_RESULT_URL": redis.url}
        yield Production(tmp_path, **urls)


def healthy(process: Process, port: int) -> bool:
    """Ask as the compose file does."""
    _, program, *arguments = SERVICES[process.name]["healthcheck"]["test"]
    assert program == "python"
    told = [argument.replace("8000", str(port)) for argument in arguments]
    return subprocess.run([sys.executable, *told], cwd=ROOT, env=process.environ, check=False).returncode == 0


def test_the_readmes_run_finishes_on_the_processes_of_the_compose_file(production: Production) -> None:
    production.run(*SERVICES["migrate"]["command"][2:])
    production.run("apply", *(str(file) for file in sorted((ROOT / "examples").glob("*.yaml"))))
    token = json.loads(production.run("create_token", "pipeline", "--scope", "trigger", "--scope", "read", "--json"))[
        "token"
    ]
    (production.home / "token-header").write_text(f"Authorization: Bearer {token}\n")

    with ExitStack() as stack:
        processes = [stack.enter_context(process) for process in production.processes()]
        web = processes[0]
        web.wait_for_output("running on http", within=60)

        run = follow_readme(production)

        assert run["state"] == "succeeded", (run, *(process.output()[-2000:] for process in processes))
        for process in processes:
            assert process.running, process.output()[-3000:]
            eventually(lambda process=process: healthy(process, production.port), within=30, every=1)
        checks = {check["name"]: check for check in json.loads(production.run("doctor", "--json"))["checks"]}
        assert {"beat leader", "reconciler leader", "clocks of workers", "lanes", "workers"} <= set(checks)
        for process in processes:
            process.terminate()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not any(process.running for process in processes), within=GRACE_SECONDS)
        left = {process.name: process.output()[-3000:] for process in processes if process.running}
        assert not left, f"{', '.join(left)} did not end within {GRACE_SECONDS} s"
        # 70 would be one that had to be ended, see orchestrator/endings.py; uvicorn ends by the signal it was sent.
        codes = [(process.name, process.exit_code) for process in processes[1:]]
        assert codes == [(name, 0) for name, _ in codes], [process.output()[-3000:] for process in processes]


def test_the_embedded_profile_runs_on_rabbitmq_when_its_url_is_given(
    own_rabbitmq: services.RabbitServer, own_redis: services.RedisServer, tmp_path: Path
) -> None:
    demo = Demo(tmp_path, UPBEAT_BROKER_URL=own_rabbitmq.url, UPBEAT_RESULT_URL=own_redis.url)
    try:
        demo.start()

        assert follow_readme(demo)["state"] == "succeeded"
        assert not (demo.home / "run" / "broker.json").exists()
        assert demo.press_ctrl_c() < 20
        assert demo.below() == []
    finally:
        demo.close()
    assert own_rabbitmq.running
    assert os.path.exists(own_redis.directory)
