"""`event_topology` on a real Kafka: shown first, made on demand, never destroyed."""

from __future__ import annotations

import io
import json
import secrets
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from django.core.management import CommandError, call_command

from orchestrator import conf
from tests.support.records import default_tenant
from triggers.listeners import kafka_topics
from triggers.models import EventSource

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def topic() -> str:
    return f"topology-{secrets.token_hex(4)}"


@pytest.fixture
def source(kafka_bootstrap: str, topic: str) -> EventSource:
    return EventSource.objects.create(
        tenant=default_tenant(),
        slug="orders",
        kind="kafka",
        id_policy="transport",
        config={
            "bootstrap": kafka_bootstrap,
            "topics": [topic],
            "declare": {
                topic: {"partitions": 3, "replication_factor": 1, "retention_ms": 3_600_000, "compression": "lz4"}
            },
        },
    )


@pytest.fixture(autouse=True)
def _no_brokers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPBEAT_KAFKA_BOOTSTRAP", "")
    monkeypatch.setenv("UPBEAT_RABBITMQ_URL", "")
    conf.options.cache_clear()


def told(*arguments: str) -> tuple[dict[str, Any], int]:
    out, code = io.StringIO(), 0
    try:
        call_command("event_topology", "--json", *arguments, stdout=out)
    except SystemExit as end:
        code = int(str(end.code))
    (broker,) = json.loads(out.getvalue())["brokers"]
    return broker, code


def test_topics_are_shown_made_and_then_as_they_should_be(
    source: EventSource, topic: str, kafka_bootstrap: str
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})

    shown, code = told("--check")
    assert code == 3
    assert [sentence.split(":")[0] for sentence in shown["missing"]] == [f"topic {topic}", f"topic {topic}.dlq"]
    assert topic not in admin.list_topics(timeout=10).topics

    made, code = told("--apply")
    assert (made["missing"], code) == (shown["missing"], 0)
    after, code = told("--check")
    assert (after["missing"], after["drift"], code) == ([], [], 0)

    listed = admin.list_topics(timeout=10).topics
    assert [len(listed[name].partitions) for name in (topic, f"{topic}.dlq")] == [3, 3]
    resource = ConfigResource(ResourceType.TOPIC, topic)
    settings = admin.describe_configs([resource])[resource].result(10)
    assert (settings["retention.ms"].value, settings["compression.type"].value) == ("3600000", "lz4")


def test_a_topic_that_is_there_is_extended_and_altered_but_keeps_its_other_settings_and_its_partitions(
    source: EventSource, topic: str, kafka_bootstrap: str
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    new = [
        NewTopic(topic, 1, 1, config={"retention.ms": "5000", "max.message.bytes": "2000000"}),
        NewTopic(f"{topic}.dlq", 7, 1),
    ]
    for future in admin.create_topics(new).values():
        future.result(10)

    made, _ = told("--apply")

    assert f"topic {topic}: 1 → 3 partitions" in made["missing"]
    assert f"topic {topic}: retention.ms 5000 → 3600000" in made["missing"]
    assert made["drift"] == [f"topic {topic}.dlq: 7 partitions, wanted 3; they cannot become fewer"]
    listed = admin.list_topics(timeout=10).topics
    assert [len(listed[name].partitions) for name in (topic, f"{topic}.dlq")] == [3, 7]
    resource = ConfigResource(ResourceType.TOPIC, topic)
    assert admin.describe_configs([resource])[resource].result(10)["max.message.bytes"].value == "2000000"


def test_more_copies_than_brokers_are_refused_with_a_hint_before_anything_is_made(
    source: EventSource, topic: str, kafka_bootstrap: str
) -> None:
    with pytest.raises(CommandError, match="--replication-factor 1"):
        call_command("event_topology", "--apply", "--replication-factor", "3", stdout=io.StringIO())

    assert topic not in AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).topics


def test_a_topic_that_is_read_but_neither_there_nor_declared_is_doubtful(source: EventSource, topic: str) -> None:
    source.config["topics"].append(f"{topic}-typo")
    source.save()

    shown, _ = told()

    assert shown["doubts"] == [
        f"topic {topic}-typo is read by orders, but it neither exists nor does a source declare it"
    ]


def test_a_cluster_that_does_not_answer_is_named(source: EventSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "ASK_SECONDS", 2.0)
    source.config["bootstrap"] = "127.0.0.1:1"
    source.save()

    with pytest.raises(CommandError, match=r"Kafka at 127\.0\.0\.1:1"):
        call_command("event_topology", stdout=io.StringIO())


def test_the_topics_of_the_contract_belong_to_the_cluster_of_the_environment(
    own_kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPBEAT_KAFKA_BOOTSTRAP", own_kafka.bootstrap)
    conf.options.cache_clear()
    try:
        told("--apply", "--replication-factor", "1")

        listed = AdminClient({"bootstrap.servers": own_kafka.bootstrap}).list_topics(timeout=10).topics
        partitions = {name: len(found.partitions) for name, found in listed.items() if not name.startswith("__")}
        assert partitions == {
            "business-events": 12,
            "business-events.dlq": 12,
            "schedule-tasks": 6,
            "schedule-tasks.dlq": 6,
        }
        assert told("--check", "--replication-factor", "1")[1] == 0
    finally:
        monkeypatch.undo()
        conf.options.cache_clear()
