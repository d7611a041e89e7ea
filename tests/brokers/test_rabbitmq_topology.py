"""What `event_topology` does on a RabbitMQ, and why: the contract's own settings beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.core.management import call_command
from pika.exceptions import NackError, UnroutableError

from orchestrator.conf import options
from tests.support import services
from tests.support.rabbitmq import channel_of, declare, event, length, publish, take_all
from triggers.listeners.rabbitmq_topology import (
    CONTRACT,
    Binding,
    BrokerAway,
    Queue,
    Topology,
    compare,
    ensure,
    lint,
    topology_of,
)
from triggers.sources.rabbitmq import Address, RabbitConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A RabbitMQ of this module: its queues bear the contract's names."""
    with services.start_rabbitmq() as server:
        yield server.url


@pytest.fixture
def address(node: str) -> Iterator[Address]:
    yield Address.of_url(node)
    with channel_of(node) as channel:
        for queue in CONTRACT.queues:
            channel.queue_delete(queue.name)
        for exchange in CONTRACT.exchanges:
            channel.exchange_delete(exchange.name)


def test_what_is_missing_is_named_then_made_then_no_more_missing(address: Address) -> None:
    before = compare(address, {}, CONTRACT)
    made = ensure(address, {}, CONTRACT)
    after = compare(address, {}, CONTRACT)

    assert "queue schedule.dlx.queue (queue-type quorum, message-ttl 604800000, delivery-limit 1000)" in before.missing
    assert "binding business.event.exchange → schedule.task.queue (order.#)" in before.missing
    assert len(before.missing) == len(CONTRACT.exchanges) + len(CONTRACT.queues) + len(CONTRACT.bindings)
    assert made.missing == before.missing
    assert (after.missing, after.drift, after.doubts) == ([], [], [])


def test_a_queue_with_other_arguments_is_reported_with_both_values_and_left_as_it_is(
    address: Address, node: str
) -> None:
    with channel_of(node) as channel:
        channel.queue_declare("schedule.main.queue", durable=True, arguments={"x-max-length": 5})
        channel.exchange_declare("schedule.dlx", "fanout", durable=True)
    publish(node, "schedule.main.queue", [b"kept"])

    report = ensure(address, {}, CONTRACT)

    assert set(report.drift) == {
        "exchange schedule.dlx: type is fanout, wanted topic",
        "queue schedule.main.queue: x-queue-type is not set, wanted quorum",
        "queue schedule.main.queue: x-max-length is 5, wanted 100000",
        "queue schedule.main.queue: x-message-ttl is not set, wanted 86400000",
        "queue schedule.main.queue: x-overflow is not set, wanted reject-publish",
        "queue schedule.main.queue: x-dead-letter-exchange is not set, wanted schedule.dlx",
    }
    assert [body for _, _, body in take_all(node, "schedule.main.queue")] == [b"kept"]
    # The rest is made all the same.
    assert length(node, "schedule.task.queue") == 0


def test_a_binding_that_misses_deeper_keys_is_doubted() -> None:
    risky = replace(CONTRACT, bindings=(Binding("schedule.task.queue", "business.event.exchange", "order.*"),))

    assert lint(CONTRACT) == []
    assert lint(risky) == [
        "business.event.exchange → schedule.task.queue: `order.*` should be order.#: `*` is exactly one word, "
        "order.created.v1 would reach no queue"
    ]


def test_a_key_of_three_words_is_lost_by_the_contracts_binding_and_reaches_the_queue_by_ours(
    address: Address, node: str
) -> None:
    with channel_of(node) as channel:
        channel.exchange_declare("theirs", "topic")
        channel.queue_declare("theirs", durable=True)
        channel.queue_bind("theirs", "theirs", "order.*")
    ensure(address, {}, CONTRACT)

    with pytest.raises(UnroutableError):
        publish(node, "order.created.v1", [event(1)], exchange="theirs")
    publish(node, "order.created.v1", [event(1)], exchange="business.event.exchange")

    assert length(node, "schedule.task.queue") == 1


def test_a_full_queue_of_the_contract_drops_its_oldest_and_ours_refuses_the_newest(node: str) -> None:
    with channel_of(node) as channel:
        channel.queue_declare("theirs.full", durable=True, arguments={"x-max-length": 5})
    declare(node, "ours.full", max_length=5, overflow="reject-publish")

    # Every one of them was confirmed.
    assert publish(node, "theirs.full", [str(n).encode() for n in range(8)]) == 8
    refused = 0
    for number in range(20):
        try:
            publish(node, "ours.full", [str(number).encode()])
        except NackError:
            refused += 1

    assert [body for _, _, body in take_all(node, "theirs.full")] == [b"3", b"4", b"5", b"6", b"7"]
    kept = [body for _, _, body in take_all(node, "ours.full")]
    assert refused > 0
    assert len(kept) == 20 - refused
    assert kept[0] == b"0"


def test_a_mutated_header_never_reaches_the_broker_so_counting_in_it_loops_for_ever(node: str) -> None:
    declare(node, "theirs.retries", delivery_limit=1000)
    publish(node, "theirs.retries", [b"poison"], headers={"retry-count": 0})

    seen = []
    with channel_of(node) as channel:
        for _ in range(6):
            method, properties, _ = channel.basic_get("theirs.retries")
            seen.append((properties.headers["retry-count"], properties.headers.get("x-delivery-count", 0)))
            properties.headers["retry-count"] += 1
            channel.basic_nack(method.delivery_tag, requeue=True)

    # Only the broker's own count grows.
    assert [theirs for theirs, _ in seen] == [0] * 6
    assert [count for _, count in seen] == [0, 1, 2, 3, 4, 5]


def test_a_source_brings_its_own_queues_exchanges_and_bindings(node: str) -> None:
    config = {
        "queues": ["billing"],
        "single_active_consumer": True,
        "queue_arguments": {"max_length": 7},
        "exchanges": [{"name": "by-header", "type": "headers"}],
        "bindings": [{"queue": "billing", "exchange": "by-header", "headers": {"x-match": "any", "tenant": "a"}}],
    }
    address = Address.of_url(node)
    topology = topology_of(RabbitConfig.of(config))
    ensure(address, {}, topology)

    publish(node, "", [event(1)], exchange="by-header", headers={"tenant": "a"})
    assert length(node, "billing") == 1
    # The broker agrees on every argument.
    assert compare(address, {}, topology).drift == []
    changed = Topology(queues=(Queue("billing", {**topology.queues[-1].arguments, "x-single-active-consumer": False}),))
    assert compare(address, {}, changed).drift == ["queue billing: x-single-active-consumer is true, wanted false"]


@pytest.mark.django_db
def test_the_command_says_what_is_missing_makes_it_and_is_content(
    address: Address, node: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {**options()._values, "UPBEAT_RABBITMQ_URL": node, "UPBEAT_KAFKA_BOOTSTRAP": ""}
    monkeypatch.setattr(options(), "_values", known)

    with pytest.raises(SystemExit) as missing:
        call_command("event_topology", check=True)
    call_command("event_topology", apply=True)
    call_command("event_topology", check=True)

    assert missing.value.code == 3
    said = capsys.readouterr().out
    assert "missing: exchange business.event.exchange (topic)" in said
    assert "made: binding schedule.main.exchange → schedule.main.queue (schedule.task.#)" in said
    assert said.endswith(f"RabbitMQ at {address}: as it should be\n")


def test_a_broker_that_does_not_answer_is_named(unused_port: int) -> None:
    with pytest.raises(BrokerAway, match=f"127.0.0.1:{unused_port}"):
        compare(Address("127.0.0.1", unused_port), {}, CONTRACT)


@pytest.fixture
def unused_port() -> int:
    return services.free_port()
