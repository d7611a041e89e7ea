"""Servers by URL, servers of one's own, and what all suites share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import kafka, services

settings.register_profile(
    "upbeat",
    deadline=None,  # two cores and a database: a slow example is no failing example
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("upbeat")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder what a folder decides."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder == "acceptance":
            item.add_marker(pytest.mark.acceptance)
        if folder == "browser":
            item.add_marker(pytest.mark.browser)
        if folder == "benchmarks":
            item.add_marker(pytest.mark.bench)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Let tests with real transactions empty the table of audit records behind themselves, as they do all tables."""
    from django.db import connection

    with django_db_blocker.unblock(), connection.cursor() as cursor:
        on = " on orchestrator_auditrecord" if connection.vendor == "postgresql" else ""
        for trigger in ("audit_no_delete", "audit_no_truncate"):
            cursor.execute(f"drop trigger if exists {trigger}{on}")


def given(variable: str) -> str:
    """Return a server's URL; a test that asks for one and gets none fails, it does not skip."""
    url = os.environ.get(variable)
    if not url:
        pytest.fail(f"{variable} is not set: `make test` sets it, or name a server whose content may be erased")
    return url


@pytest.fixture(autouse=True)
def _default_tenant(request: pytest.FixtureRequest) -> None:
    """Give back what a migration made: a test with real transactions empties every table behind itself."""
    if request.node.get_closest_marker("django_db") or {"db", "transactional_db"} & set(request.fixturenames):
        request.getfixturevalue("db")
        from orchestrator.models import Tenant

        Tenant.objects.get_or_create(slug="default", defaults={"name": "Default"})


@pytest.fixture(scope="session")
def database_url() -> str:
    return given("UPBEAT_TEST_DATABASE_URL")


@pytest.fixture(scope="session")
def redis_url(worker_id: str) -> str:
    """A Redis database that this test process has to itself."""
    number = 1 if worker_id == "master" else 2 + int(worker_id.removeprefix("gw"))
    return f"{given('UPBEAT_TEST_REDIS_URL').rpartition('/')[0]}/{number}"


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    return given("UPBEAT_TEST_RABBITMQ_URL")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    """The Kafka that all tests share: each makes topics and groups of its own."""
    return kafka.bootstrap_of(given("UPBEAT_TEST_KAFKA_URL"))


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The same test on both brokers."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def own_postgres() -> Iterator[services.PostgresServer]:
    """A PostgreSQL that the test may kill, pause and fill."""
    with services.start_postgres() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[services.RedisServer]:
    """A Redis that the test may kill, pause and empty."""
    with services.start_redis() as server:
        yield server


@pytest.fixture
def own_rabbitmq() -> Iterator[services.RabbitServer]:
    """A RabbitMQ that the test may kill, pause and empty."""
    with services.start_rabbitmq() as server:
        yield server


@pytest.fixture
def own_kafka() -> Iterator[kafka.KafkaServer]:
    """A Kafka that the test may kill, pause and fill."""
    with kafka.start_kafka() as server:
        yield server
