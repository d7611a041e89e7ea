"""`docker-compose.yml`, the Dockerfile and the secrets against what the code reads and the commands know."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.conf import OPTIONS, Options
from orchestrator.contracts import BUILT_IN_POOLS, CONTROL_LANE
from orchestrator.diagnosis.versions import LEAST_RABBITMQ, LEAST_REDIS
from orchestrator.endings import GRACE_SECONDS
from orchestrator.errors import Misconfigured
from tests.conftest import given
from tests.support import compose
from triggers.listeners.hosting import BUDGET_SECONDS
from triggers.sources.rabbitmq import Address

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
#: They do their work and are gone.
ONCE = {"migrate", "topology"}
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / "deploy/example.env").read_text().splitlines() if re.match(r"[A-Z_]+=", line)
)


def substituted(text: object) -> str:
    """Replace variables the way compose does: `${A:-default}`."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(text))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that deploy/make_secrets.sh fills."""
    folder = tmp_path_factory.mktemp("deploy")
    script = folder / "make_secrets.sh"
    script.write_bytes((ROOT / "deploy/make_secrets.sh").read_bytes())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    return folder / "secrets"


def environment(service: str, secrets: Path) -> dict[str, str]:
    """The environment of a service, its secrets where the script wrote them in place of where they are mounted."""
    values = {key: substituted(value) for key, value in SERVICES[service]["environment"].items()}
    return {key: value.replace("/run/secrets", str(secrets)) for key, value in values.items()}


def test_every_process_of_the_production_profile_is_there() -> None:
    assert set(SERVICES) == {
        *("postgres", "redis", "rabbitmq", "kafka"),
        *("migrate", "topology", "web", "worker", "control", "beat", "listeners", "flower"),
    }
    assert SERVICES["beat"]["deploy"]["replicas"] == 2


def test_docker_compose_accepts_the_file(secrets: Path, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_bytes((ROOT / "docker-compose.yml").read_bytes())
    (tmp_path / "deploy").symlink_to(secrets.parent)

    done = subprocess.run(
        [given(compose.VARIABLE), "config"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


@pytest.mark.parametrize("service", OURS)
def test_a_service_sets_only_options_that_the_code_reads(service: str) -> None:
    known = {option.name for option in OPTIONS} | {f"{option.name}_FILE" for option in OPTIONS if option.secret}

    assert set(SERVICES[service]["environment"]) <= known


@pytest.mark.parametrize("service", OURS)
def test_a_service_is_given_every_secret_that_it_reads_and_no_other(service: str) -> None:
    text = str([*SERVICES[service]["environment"].values(), SERVICES[service]["command"]])

    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(SERVICES[service]["secrets"])


def test_every_secret_is_a_file_that_the_script_writes_once(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    again = subprocess.run(
        ["sh", str(secrets.parent / "make_secrets.sh")], check=True, capture_output=True, text=True
    ).stdout

    assert {Path(entry["file"]).name for entry in COMPOSE["secrets"].values()} <= set(before)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert "written" not in again
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700, "the files themselves are for users of containers"
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_servers_expect_the_passwords_that_the_urls_have(secrets: Path) -> None:
    options = Options(environment("worker", secrets))

    assert f":{(secrets / 'postgres_password').read_text().strip()}@postgres:" in options.database_url
    password = re.search(r"^default_pass = (\w+)$", (secrets / "rabbitmq.conf").read_text(), flags=re.MULTILINE)
    assert password is not None
    assert f"amqp://upbeat:{password[1]}@rabbitmq:" in options.broker_url


@pytest.mark.parametrize("service", OURS)
def test_the_options_of_a_service_can_be_read(service: str, secrets: Path) -> None:
    options = Options(environment(service, secrets))

    assert options.profile == "production"
    assert options.broker_url.startswith("amqp://upbeat:")
    assert options.result_url.startswith("redis://")
    assert options.database_url.startswith("postgresql://")
    assert options.kafka_bootstrap == "kafka:9092"
    assert Address.of_url(options.rabbitmq_url).vhost == "/"


@pytest.mark.parametrize("service", OURS)
def test_production_settings_accept_what_a_service_sets(service: str, secrets: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator.settings.production as s; print(s.DATABASES['default']['HOST'])"],
        cwd=ROOT,
        env=environment(service, secrets),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "postgres", done.stderr


def test_every_variable_of_the_compose_file_has_a_default_that_the_example_shows() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))

    assert "${" not in substituted(text)
    assert {**used, "UPBEAT_KAFKA_BOOTSTRAP": ""} == {**EXAMPLE, "UPBEAT_KAFKA_BOOTSTRAP": ""}


def test_every_service_that_stays_is_asked_for_its_health() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == ONCE


@pytest.mark.parametrize("service", ["web", "flower"])
def test_a_service_listens_on_the_port_that_is_published_and_asked(service: str) -> None:
    published = substituted(SERVICES[service]["ports"][0]).rpartition(":")[2]

    assert published in re.findall(r"\d{4,}", str(SERVICES[service]["command"]))
    assert f"127.0.0.1:{published}/" in str(SERVICES[service]["healthcheck"]["test"])


def test_the_servers_are_of_versions_that_doctor_accepts() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    versions = {
        name: tuple(map(int, re.findall(r"\d+", image.rpartition(":")[2])[:2])) for name, image in images.items()
    }

    assert all(versions.values()), "each is named with its version"
    assert versions["rabbitmq"] >= LEAST_RABBITMQ
    assert versions["redis"] >= LEAST_REDIS[:1]


def test_between_them_the_workers_consume_every_lane() -> None:
    consumed = [
        queue
        for service in ("worker", "control")
        for queue in SERVICES[service]["command"][SERVICES[service]["command"].index("--queues") + 1].split(",")
    ]

    assert sorted(consumed) == sorted([*BUILT_IN_POOLS, CONTROL_LANE])


def test_only_processes_with_threads_use_a_pool_of_connections() -> None:
    pooled = {service for service in OURS if "UPBEAT_DATABASE_POOL" in SERVICES[service]["environment"]}

    assert pooled == {"web", "control"}


def test_a_pool_has_a_connection_for_every_thread_of_the_control_worker() -> None:
    command = SERVICES["control"]["command"]

    assert (
        int(SERVICES["control"]["environment"]["UPBEAT_DATABASE_POOL"])
        >= int(command[command.index("--concurrency") + 1]) + 2
    )


def test_servers_are_reached_from_inside_alone_and_ours_from_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert set(published) == {"web", "flower"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def unknown_options(service: str, known: str) -> list[str]:
    options = re.findall(r"--[a-z-]+", " ".join(SERVICES[service]["command"]))
    return [option for option in options if option != "--app" and option not in known]


@pytest.mark.parametrize(("service", "verb"), [("worker", "worker"), ("control", "worker"), ("beat", "beat")])
def test_celery_knows_the_options_of_a_command(service: str, verb: str) -> None:
    known = subprocess.run(
        [sys.executable, "-m", "celery", verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert unknown_options(service, known) == []


def test_flower_knows_the_options_of_its_command_and_its_configuration_is_there() -> None:
    asked = "import flower.options, tornado.options; print(*(f'--{o}' for o in tornado.options.options))"
    known = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout

    assert unknown_options("flower", known.replace("_", "-")) == []
    (configuration,) = re.findall(r"--conf=(?:/app/)?(\S+)", " ".join(SERVICES["flower"]["command"]))
    assert (ROOT / configuration).is_file()
    assert configuration.partition("/")[0] in (ROOT / "Dockerfile").read_text()


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

    tasks = float(substituted(SERVICES["worker"]["environment"]["UPBEAT_WORKER_STOP_SECONDS"]))
    assert min(seconds.values()) > tasks + GRACE_SECONDS


def test_everything_that_the_image_copies_exists_and_is_let_in() -> None:
    copied = re.findall(r"^COPY ([^-\s]\S*)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
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
