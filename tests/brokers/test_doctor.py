"""What `doctor` says of servers and workers that answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import override_settings

from orchestrator.diagnosis import servers, versions
from triggers import diagnosis
from triggers.sources.rabbitmq import Address, parameters


def test_doctor_names_the_brokers_version(broker_url: str, settings: Any) -> None:
    with override_settings(CELERY={**settings.CELERY, "broker_url": broker_url}):
        finding, *more = servers.broker()

    assert finding.ok
    assert re.match(r"(Redis|RabbitMQ) \d+\.\d+", finding.detail)
    assert [each.name for each in more] == (["broker eviction"] if broker_url.startswith("redis") else [])


def test_doctor_says_what_an_old_rabbitmq_does_to_long_tasks() -> None:
    assert versions.said_of("RabbitMQ", "3.13.2") == "RabbitMQ 3.13.2"
    assert "half an hour" in versions.said_of("RabbitMQ", "3.10.8")


def test_a_redis_that_evicts_keys_is_wrong(redis_url: str, settings: Any) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with override_settings(CELERY={**settings.CELERY, "broker_url": redis_url}):
                _, eviction = servers.broker()
        finally:
            client.config_set("maxmemory-policy", before)

    assert (eviction.ok, eviction.detail) == (False, "allkeys-lru")
    assert "noeviction" in eviction.hint


@pytest.mark.django_db
def test_doctor_names_the_databases_version_and_its_connections() -> None:
    found = {each.name: each for each in servers.database()}

    assert all(each.ok for each in found.values())
    assert re.match(r"(PostgreSQL|SQLite) \d+", found["database version"].detail)


def test_doctor_names_the_topics_that_a_kafka_does_not_have(kafka_bootstrap: str) -> None:
    answer = diagnosis._ask_kafka({"bootstrap.servers": kafka_bootstrap}, ["nobody-has-this-topic"])

    assert answer.missing == ("nobody-has-this-topic",)
    assert "broker" in answer.detail


def test_doctor_names_the_queues_that_a_rabbitmq_does_not_have_and_its_version(rabbitmq_url: str) -> None:
    told = parameters(Address.of_url(rabbitmq_url), {}, name="doctor of a test")

    answer = diagnosis._ask_rabbitmq(told, ["nobody-has-this-queue"])

    assert answer.missing == ("nobody-has-this-queue",)
    assert answer.detail.startswith("RabbitMQ ")
