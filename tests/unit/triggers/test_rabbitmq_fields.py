"""The fields of a RabbitMQ source, the address they make, and what a queue shall be: without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import Misconfigured
from triggers.listeners.rabbitmq_topology import CONTRACT, DEAD_LETTERS, lint, topology_of
from triggers.sources.rabbitmq import KIND, Address, RabbitConfig, address_of, parameters


def paths(config: dict[str, Any], secrets: dict[str, str] | None = None) -> list[str]:
    return [problem.path for problem in KIND.problems({"queues": ["orders"]} | config, secrets or {})]


def test_the_shortest_source_is_enough() -> None:
    assert KIND.problems({"queues": ["schedule.task.queue"]}, {}) == []


@pytest.mark.parametrize(
    ("config", "secrets", "path"),
    [
        ({"queues": []}, {}, "config.queues"),
        ({"queues": ["a", "a"]}, {}, "config.queues"),
        ({"colour": "blue"}, {}, "config.colour"),
        ({"host": "amqp://h", "vhost": "/"}, {}, "config.host"),
        ({"vhost": "/shop"}, {}, "config.vhost"),
        ({}, {"password": "p"}, "secrets.password"),
        ({"host": "h", "user": "u"}, {}, "secrets.password"),
        ({"host": "h"}, {"ca": "rabbit-ca"}, "config.tls"),
        ({"host": "h", "tls": True}, {"certificate": "c"}, "secrets"),
        ({"host": "h"}, {"keytab": "x"}, "secrets.keytab"),
        ({"prefetch": 10, "batch": 11}, {}, "config.batch"),
        ({"batch": 501}, {}, "config.batch"),
        ({"queue_arguments": {"overflow": "drop-head"}}, {}, "config.queue_arguments.overflow"),
        ({"queue_arguments": {"type": "classic", "delivery_limit": 5}}, {}, "config.queue_arguments.delivery_limit"),
        ({"queue_arguments": {"x-expires": 1}}, {}, "config.queue_arguments.x-expires"),
        ({"bindings": [{"queue": "other", "exchange": "e"}]}, {}, "config.bindings[0].queue"),
        (
            {"bindings": [{"queue": "orders", "exchange": "e", "routing_key": "order.*"}]},
            {},
            "config.bindings[0].routing_key",
        ),
        ({"exchanges": [{"name": "e", "type": "x-delayed"}]}, {}, "config.exchanges[0].type"),
    ],
)
def test_a_wrong_field_is_named(config: dict[str, Any], secrets: dict[str, str], path: str) -> None:
    assert paths(config, secrets) == [path]


def test_a_small_prefetch_makes_small_batches() -> None:
    assert RabbitConfig.of({"queues": ["a"], "prefetch": 7}).batch == 7


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://h", Address("h")),
        ("amqp://u:p%40ss@h:5673//", Address("h", 5673, "/", "u", "p@ss")),
        ("amqp://h/%2F", Address("h")),
        ("amqps://h/shop", Address("h", None, "shop", tls=True)),
    ],
)
def test_a_url_names_broker_user_and_virtual_host(url: str, address: Address) -> None:
    assert Address.of_url(url) == address


def test_a_password_is_in_no_text_of_an_address() -> None:
    address = Address.of_url("amqp://u:hidden@h")

    assert "hidden" not in f"{address} {address!r}"


def test_a_source_of_its_own_broker_takes_its_password_from_its_secrets() -> None:
    config = RabbitConfig.of({"queues": ["a"], "host": "h", "user": "u", "vhost": "shop", "tls": True})

    assert address_of(config, {"password": "p"}) == Address("h", None, "shop", "u", "p", True)


def test_a_certificate_that_is_none_is_named() -> None:
    with pytest.raises(Misconfigured, match="PEM"):
        parameters(Address("h", tls=True), {"ca": "no certificate"}, name="x")


def test_a_source_that_reads_a_queue_of_the_contract_keeps_its_arguments_beside_its_own() -> None:
    config = RabbitConfig.of({"queues": ["schedule.task.queue"], "queue_arguments": {"max_length": 5}})

    [queue] = [q for q in topology_of(config, CONTRACT).queues if q.name == "schedule.task.queue"]

    assert queue.arguments["x-max-length"] == 5
    assert queue.arguments["x-message-ttl"] == 86_400_000
    assert queue.arguments["x-overflow"] == "reject-publish"


def test_a_classic_queue_gets_no_argument_of_quorum_queues() -> None:
    config = RabbitConfig.of({"queues": ["a"], "queue_arguments": {"type": "classic"}})

    [queue] = [q for q in topology_of(config).queues if q.name == "a"]

    assert queue.arguments == {
        "x-queue-type": "classic",
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": DEAD_LETTERS,
    }


def test_the_contracts_own_patterns_reach_deeper_keys() -> None:
    assert lint(CONTRACT) == []
