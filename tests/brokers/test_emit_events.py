"""`manage.py emit_events` to real brokers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pika
import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic
from django.core.management import CommandError, call_command

from orchestrator.conf import options
from tests.support.kafka_mock import MockKafka
from triggers.sources.rabbitmq import Address, parameters

pytestmark = pytest.mark.django_db


def emit(*arguments: Any) -> str:
    out = StringIO()
    call_command("emit_events", *map(str, arguments), stdout=out)
    return out.getvalue()


@contextmanager
def option(monkeypatch: pytest.MonkeyPatch, **values: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(options(), "_values", {**options()._values, **values})
        yield


def test_events_arrive_in_a_topic_of_kafka_with_the_customer_as_their_key(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"emitted-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)

    with option(monkeypatch, UPBEAT_KAFKA_BOOTSTRAP=kafka_bootstrap):
        said = emit("--to", "kafka", "--topic", topic, "--count", 5)

    assert said.startswith("5 events sent")
    settings = {"bootstrap.servers": kafka_bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    try:
        consumer.subscribe([topic])
        messages = consumer.consume(5, timeout=30)
    finally:
        consumer.close()
    found = [json.loads(message.value() or b"") for message in messages]
    assert {event["eventType"] for event in found} == {"order.created"}
    assert [(message.key() or b"").decode() for message in messages] == [e["payload"]["customerId"] for e in found]


def test_events_survive_more_refusals_than_three_and_none_arrives_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # A broker that lacks replicas for a while refuses as often as it is asked; `retries=3` would have lost them.
    with MockKafka({"emitted": 1}) as mock, option(monkeypatch, UPBEAT_KAFKA_BOOTSTRAP=mock.bootstrap):
        mock.fail_produces("NOT_ENOUGH_REPLICAS", 6)

        said = emit("--to", "kafka", "--topic", "emitted", "--count", 20)

        settings = {"bootstrap.servers": mock.bootstrap, "group.id": "g", "auto.offset.reset": "earliest"}
        consumer = Consumer(settings)
        try:
            consumer.subscribe(["emitted"])
            messages = consumer.consume(20, timeout=30) + consumer.consume(1, timeout=1)
        finally:
            consumer.close()
    assert said.startswith("20 events sent")
    ids = [json.loads(message.value() or b"")["messageId"] for message in messages]
    assert len(ids) == len(set(ids)) == 20


def test_events_arrive_in_a_queue_of_rabbitmq_by_their_type(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"emitted-{uuid.uuid4().hex[:8]}"
    connection = pika.BlockingConnection(parameters(Address.of_url(rabbitmq_url), name="test"))
    channel = connection.channel()
    channel.exchange_declare(name, "topic", auto_delete=True)
    channel.queue_declare(name, auto_delete=True)
    channel.queue_bind(name, name, "order.#")
    try:
        with option(monkeypatch, UPBEAT_RABBITMQ_URL=rabbitmq_url):
            said = emit("--to", "rabbitmq", "--exchange", name, "--count", 3)
            with pytest.raises(CommandError, match=r"has no queue for 'payment.done'"):
                emit("--to", "rabbitmq", "--exchange", name, "--type", "payment.done")

        assert said.startswith("3 events sent")
        found = [channel.basic_get(name, auto_ack=True) for _ in range(3)]
        ids = {properties.message_id for _, properties, _ in found}
        assert ids == {json.loads(body)["messageId"] for _, _, body in found}
        assert len(ids) == 3
    finally:
        channel.queue_delete(name)
        connection.close()


@pytest.mark.slow
def test_a_broker_that_is_away_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    away = {"UPBEAT_KAFKA_BOOTSTRAP": "127.0.0.1:1", "UPBEAT_RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1/"}
    with option(monkeypatch, **away):
        with pytest.raises(CommandError, match="Kafka"):
            emit("--to", "kafka", "--topic", "t")
        with pytest.raises(CommandError, match=r"RabbitMQ at 127\.0\.0\.1:1"):
            emit("--to", "rabbitmq")
