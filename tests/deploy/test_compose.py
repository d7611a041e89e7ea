"""`docker-compose.yml` and the Dockerfile against what the code reads and the commands know."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.conf import OPTIONS, Options
from orchestrator.contracts import BUILT_IN_POOLS, CONTROL_LANE
from orchestrator.errors import Misconfigured
from triggers.listeners.hosting import BUDGET_SECONDS
from triggers.sources.rabbitmq import Address

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / "deploy/example.env").read_text().splitlines() if re.match(r"[A-Z_]+=", line)
)
FILLED = {key: value or "k" * 8 for key, value in EXAMPLE.items()}


def substituted(text: object) -> str:
    """Replace variables the way compose does: `${A}`, `${A:-default}`, `${A:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if FILLED.get(name):
            return FILLED[name]
        assert operator == ":-", f"{name} is neither in deploy/example.env nor given a default"
        return rest

    return re.sub(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}", value, str(text))


def environment(service: str) -> dict[str, str]:
    return {key: substituted(value) for key, value in SERVICES[service]["environment"].items()}


def test_every_process_of_the_production_profile_is_there() -> None:
    assert set(SERVICES) == {
        *("postgres", "redis", "rabbitmq", "kafka"),
        *("migrate", "topology", "web", "worker", "control", "beat", "listeners", "flower"),
    }
    assert SERVICES["beat"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("service", OURS)
def test_a_service_sets_only_options_that_the_code_reads(service: str) -> None:
    known = {option.name for option in OPTIONS}
    mine = {name for name in environment(service) if name.startswith("UPBEAT_")}

    assert mine <= known


@pytest.mark.parametrize("service", OURS)
def test_the_options_of_a_service_can_be_read(service: str) -> None:
    options = Options(environment(service))

    assert options.profile == "production"
    assert options.broker_url.startswith("amqp://upbeat:")
    assert options.result_url.startswith("redis://")
    assert options.database_url.startswith("postgresql://")
    assert options.kafka_bootstrap == "kafka:9092"
    assert Address.of_url(options.rabbitmq_url).vhost == "/"


@pytest.mark.parametrize("service", OURS)
def test_production_settings_accept_what_a_service_sets(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator.settings.production as s; print(s.DATABASES['default']['HOST'])"],
        cwd=ROOT,
        env=environment(service),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "postgres", done.stderr


def test_a_missing_secret_is_asked_for_by_name() -> None:
    for name in ("UPBEAT_SECRET_KEY", "UPBEAT_ENCRYPTION_KEYS"):
        assert ":?" in SERVICES["web"]["environment"][name]
        assert EXAMPLE[name] == "", "an example key would end up in production"


def test_every_variable_of_the_compose_file_is_in_the_example_or_has_a_default() -> None:
    substituted((ROOT / "docker-compose.yml").read_text())


def test_between_them_the_workers_consume_every_lane() -> None:
    consumed = [
        queue
        for service in ("worker", "control")
        for queue in SERVICES[service]["command"][SERVICES[service]["command"].index("--queues") + 1].split(",")
    ]

    assert sorted(consumed) == sorted([*BUILT_IN_POOLS, CONTROL_LANE])


def test_only_processes_with_threads_use_a_pool_of_connections() -> None:
    pooled = {service for service in OURS if "UPBEAT_DATABASE_POOL" in environment(service)}

    assert pooled == {"web", "control"}


def test_a_pool_has_a_connection_for_every_thread_of_the_control_worker() -> None:
    command = SERVICES["control"]["command"]

    assert int(environment("control")["UPBEAT_DATABASE_POOL"]) >= int(command[command.index("--concurrency") + 1]) + 2


def test_servers_are_reached_from_inside_alone_and_ours_from_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert set(published) == {"web", "flower"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize(("service", "verb"), [("worker", "worker"), ("control", "worker"), ("beat", "beat")])
def test_celery_knows_the_options_of_a_command(service: str, verb: str) -> None:
    known = subprocess.run(
        [sys.executable, "-m", "celery", verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    options = [word.partition("=")[0] for word in SERVICES[service]["command"] if word.startswith("--")]

    assert [option for option in options if option != "--app" and option not in known] == []


@pytest.mark.parametrize("service", ["migrate", "topology", "listeners"])
def test_a_command_and_its_options_exist(service: str) -> None:
    _, manage, command, *arguments = SERVICES[service]["command"]
    known = subprocess.run(
        [sys.executable, manage, command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert [word for word in arguments if word.startswith("--") and word not in known] == []


def test_listeners_are_judged_by_their_progress_and_get_the_time_to_end() -> None:
    assert SERVICES["listeners"]["healthcheck"]["test"][1:] == ["python", "manage.py", "run_triggers", "--check"]
    assert float(SERVICES["listeners"]["stop_grace_period"].removesuffix("s")) > BUDGET_SECONDS


def test_the_broker_of_events_makes_no_topic_by_itself_and_keeps_its_data() -> None:
    kafka = SERVICES["kafka"]

    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert kafka["environment"]["KAFKA_LOG_DIRS"] in {volume.partition(":")[2] for volume in kafka["volumes"]}
    assert {volume.partition(":")[0] for volume in kafka["volumes"]} <= set(COMPOSE["volumes"])


def test_workers_get_the_time_to_settle_before_they_are_killed() -> None:
    seconds = {
        name: int(SERVICES[name]["stop_grace_period"].removesuffix("s")) for name in ("worker", "control", "beat")
    }

    assert min(seconds.values()) >= 45
    assert "REMAP_SIGTERM=SIGQUIT" in (ROOT / "Dockerfile").read_text()


def test_everything_that_the_image_copies_exists_and_is_let_in() -> None:
    copied = re.findall(r"^COPY (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert set(copied) == let_in


def test_production_refuses_to_start_without_its_secrets() -> None:
    with pytest.raises(Misconfigured, match="UPBEAT_BROKER_URL"):
        Options({"UPBEAT_BROKER_URL": "http://rabbitmq"})


def test_the_events_of_the_readme_find_a_source_and_a_rule() -> None:
    said = (ROOT / "deploy/README.md").read_text()
    folder = re.search(r"apply (examples/\S+)/\*\.yaml", said.partition("To see events become runs")[2])
    assert folder is not None
    files = [str(file) for file in sorted((ROOT / folder[1]).glob("*.yaml"))]

    done = subprocess.run(
        [sys.executable, "manage.py", "validate", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "event source business-events is valid (kafka)" in done.stdout
    assert "valid (on order.created)" in done.stdout, "what emit_events sends by default"
