"""Servers as containers, where a container engine answers: for a machine on which nothing may be installed."""

from __future__ import annotations

import secrets
import shutil
import subprocess

from tests.support import kafka, services

#: name → image, port inside (0: the one outside, because the server tells it to its clients), environment
IMAGES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "PostgreSQL": ("postgres:15", 5432, ("POSTGRES_USER=upbeat", "POSTGRES_PASSWORD=upbeat", "POSTGRES_DB=upbeat")),
    "Redis": ("redis:7", 6379, ()),
    "RabbitMQ": ("rabbitmq:3.12", 5672, ()),
    "Kafka": (
        "apache/kafka:4.1.1",
        0,
        (
            "KAFKA_NODE_ID=1",
            "KAFKA_PROCESS_ROLES=broker,controller",
            "KAFKA_LISTENERS=PLAINTEXT://:{port},CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}",
            "KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:9093",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1",
            "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS=1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false",
        ),
    ),
}


def available() -> bool:
    """Say whether a container engine answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False).returncode == 0


class Container(services.Server):
    """A server in a container of its own; the foreground client is the process that we watch."""

    start_seconds = 300.0  # the first start fetches the image

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.image, inner_port, settings = IMAGES[name]
        self.inner_port = inner_port or self.port
        self.settings = [setting.format(port=self.port) for setting in settings]
        self.container = f"upbeat-test-{secrets.token_hex(6)}"

    @property
    def url(self) -> str:
        address = f"127.0.0.1:{self.port}"
        return {
            "PostgreSQL": f"postgresql://upbeat:upbeat@{address}/upbeat",
            "Redis": f"redis://{address}/0",
            "RabbitMQ": f"amqp://guest:guest@{address}//",
            "Kafka": f"kafka://{address}",
        }[self.name]

    def command(self) -> list[str]:
        settings = [part for setting in self.settings for part in ("--env", setting)]
        publish = f"127.0.0.1:{self.port}:{self.inner_port}"
        return ["docker", "run", "--rm", "--name", self.container, "--publish", publish, *settings, self.image]

    def ping(self) -> None:
        (kafka.ping if self.name == "Kafka" else services.ping)(self.url)

    def stop(self) -> None:
        if self.running:
            subprocess.run(["docker", "stop", self.container], capture_output=True, check=False)
        super().stop()


def start(name: str) -> services.Server:
    """Start the server called `name` as a container."""
    return Container(name).start()
