"""The fields of a Kafka source, what librdkafka is told of them, and what a topic shall be: without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer

from orchestrator.errors import Misconfigured
from triggers.listeners.kafka import _moment
from triggers.listeners.kafka_topics import CONTRACT, Topic, compare_topic, dead_letters_of, declared_in
from triggers.sources import kafka
from triggers.sources.kafka import EXTRA, KIND, claims, connection_settings, consumer_settings, default_group

CONFIG: dict[str, Any] = {"bootstrap": "127.0.0.1:1", "topics": ["business-events"]}


def told(config: dict[str, Any] | None = None, secrets: dict[str, str] | None = None) -> dict[str, Any]:
    return consumer_settings(CONFIG | (config or {}), secrets or {}, group="g", client="host-orders")


def paths(config: dict[str, Any], secrets: dict[str, str] | None = None) -> list[str]:
    return [problem.path for problem in KIND.problems(CONFIG | config, secrets or {})]


def test_the_shortest_source_is_enough() -> None:
    assert KIND.problems({"topics": ["business-events"]}, {}) == []


@pytest.mark.parametrize(
    ("config", "secrets", "path"),
    [
        ({"topics": []}, {}, "config.topics"),
        ({"topics": ["a b"]}, {}, "config.topics[0]"),
        ({"topics": ["a", "a"]}, {}, "config.topics"),
        ({"bootstrap": "kafka://a:1"}, {}, "config.bootstrap"),
        ({"max_poll_records": 0}, {}, "config.max_poll_records"),
        ({"batch_size": 501}, {}, "config.batch_size"),
        ({"colour": "blue"}, {}, "config.colour"),
        ({"group_protocol": "new"}, {}, "config.group_protocol"),
        ({"heartbeat_interval_ms": 20_000}, {}, "config.heartbeat_interval_ms"),
        ({"max_poll_interval_ms": 10_000}, {}, "config.max_poll_interval_ms"),
        ({"group_protocol": "consumer", "session_timeout_ms": 45_000}, {}, "config.session_timeout_ms"),
        ({"sasl_mechanism": "PLAIN", "username": "u"}, {}, "secrets.password"),
        ({"username": "u"}, {}, "config.sasl_mechanism"),
        ({}, {"ca": "kafka-ca"}, "config.tls"),
        ({"tls": True}, {"certificate": "kafka-cert"}, "secrets"),
        ({}, {"keytab": "x"}, "secrets.keytab"),
        ({"declare": {"a": {"partitions": 0}}}, {}, "config.declare.a.partitions"),
        ({"declare": {"a": {"partitions": 1, "cleanup": "x"}}}, {}, "config.declare.a.cleanup"),
        ({"extra": {"fetch.min.bytes": "1"}}, {}, "config.extra.fetch.min.bytes"),
    ],
)
def test_a_wrong_field_is_named(config: dict[str, Any], secrets: dict[str, str], path: str) -> None:
    assert paths(config, secrets) == [path]


@pytest.mark.parametrize(
    "name",
    [
        "plugin.library.paths",
        "ssl.ca.location",
        "ssl.key.location",
        "ssl.keystore.location",
        "ssl.engine.location",
        "ssl.providers",
        "sasl.kerberos.kinit.cmd",
        "sasl.oauthbearer.config",
        "enable.auto.commit",
        "group.id",
        "auto.offset.reset",
        "enable.ssl.certificate.verification",
        "test.mock.num.brokers",
        "debug",
    ],
)
def test_settings_that_load_code_read_files_or_lose_messages_are_refused_and_never_passed_on(name: str) -> None:
    assert paths({"extra": {name: "x"}}) == [f"config.extra.{name}"]
    assert told({"extra": {name: "x"}}).get(name) != "x"


def test_every_setting_of_the_list_is_known_to_the_client_and_none_names_a_file() -> None:
    samples: dict[str, Any] = {
        "broker.address.family": "v4",
        "client.dns.lookup": "use_all_dns_ips",
        "client.rack": "a",
        "ssl.cipher.suites": "DEFAULT",
        "socket.nagle.disable": True,
        "fetch.min.bytes": 1,
        "fetch.max.bytes": 52428800,
        "receive.message.max.bytes": 100_000_000,
        "fetch.queue.backoff.ms": 10,
        "max.partition.fetch.bytes": 1048576,
    }
    extra = {name: samples.get(name, 1000) for name in EXTRA}
    if "topic.metadata.refresh.interval.ms" in extra:
        extra["metadata.max.age.ms"] = 5000

    consumer = Consumer(told({"extra": extra}))
    consumer.close()

    assert not [name for name in EXTRA if any(word in name for word in ("location", "path", "cmd", "file", "engine"))]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_client_takes_what_it_is_told(protocol: str) -> None:
    consumer = Consumer(told({"group_protocol": protocol, "static_membership": True}))
    consumer.close()


def test_only_what_is_durable_can_be_committed() -> None:
    settings = told()

    assert settings["enable.auto.commit"] is False
    assert settings["enable.auto.offset.store"] is False
    assert settings["auto.offset.reset"] == "earliest"
    assert settings["isolation.level"] == "read_committed"
    assert settings["partition.assignment.strategy"] == "cooperative-sticky"
    assert "group.instance.id" not in settings


def test_secrets_are_handed_over_as_values() -> None:
    settings = told(
        {"tls": True, "sasl_mechanism": "SCRAM-SHA-512", "username": "upbeat"},
        {"password": "hush", "ca": "PEM", "certificate": "CERT", "key": "KEY", "key_password": "open"},
    )

    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["sasl.password"] == "hush"
    assert settings["ssl.ca.pem"] == "PEM"
    assert settings["ssl.key.password"] == "open"
    assert settings["ssl.endpoint.identification.algorithm"] == "https"


def test_brokers_come_from_the_environment_where_the_source_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Options:
        kafka_bootstrap = "10.0.0.1:9092"

    monkeypatch.setattr(kafka, "options", lambda: Options)
    assert connection_settings({"topics": ["a"]}, {})["bootstrap.servers"] == "10.0.0.1:9092"

    Options.kafka_bootstrap = ""
    with pytest.raises(Misconfigured, match="UPBEAT_KAFKA_BOOTSTRAP"):
        connection_settings({"topics": ["a"]}, {})


def test_further_sources_get_groups_of_their_own() -> None:
    assert default_group("orders", first=True) == "schedule-trigger-group"
    assert default_group("orders", first=False) == "schedule-trigger-group.orders"


def test_two_sources_clash_only_over_a_topic_that_they_read_in_one_group() -> None:
    one = claims({"bootstrap": "a:1, b:1", "topics": ["x", "y"]}, "g")

    assert one & claims({"bootstrap": "b:1,a:1", "topics": ["y"]}, "g")
    assert not one & claims({"bootstrap": "a:1,b:1", "topics": ["z"]}, "g")
    assert not one & claims({"bootstrap": "a:1,b:1", "topics": ["y"]}, "g2")


def test_the_topics_of_the_contract() -> None:
    events, tasks = CONTRACT

    assert (events.name, events.partitions, events.replication) == ("business-events", 12, 3)
    assert events.settings == {
        "retention.ms": "604800000",
        "segment.bytes": "1073741824",
        "cleanup.policy": "delete",
        "compression.type": "snappy",
    }
    assert (tasks.name, tasks.partitions, tasks.replication) == ("schedule-tasks", 6, 3)
    assert tasks.settings == {
        "retention.ms": "86400000",
        "segment.bytes": "536870912",
        "cleanup.policy": "delete",
        "compression.type": "lz4",
    }
    assert dead_letters_of(events).name == "business-events.dlq"
    assert dead_letters_of(events).partitions == 12


def test_a_topic_is_made_extended_and_altered_but_never_reduced() -> None:
    wanted = Topic("orders", 6, 3, {"retention.ms": "1000"})

    made, _ = compare_topic(wanted, None)
    assert made.create == wanted
    more, report = compare_topic(wanted, Topic("orders", 4, 3, {"retention.ms": "9", "segment.bytes": "5"}))
    assert more.partitions == 6
    assert more.settings == {"retention.ms": "1000"}
    assert report.missing == ["topic orders: 4 → 6 partitions", "topic orders: retention.ms 9 → 1000"]
    fewer, report = compare_topic(wanted, Topic("orders", 12, 1, {"retention.ms": "1000"}))
    assert fewer.create is fewer.partitions is None
    assert not fewer.settings
    assert report.missing == []
    assert report.drift == [
        "topic orders: 12 partitions, wanted 6; they cannot become fewer",
        "topic orders: replication factor 1, wanted 3",
    ]


def test_a_source_declares_its_own_topics() -> None:
    declared = declared_in({"declare": {"orders": {"partitions": 4, "replication_factor": 1, "compression": "zstd"}}})

    assert declared == [Topic("orders", 4, 1, {"compression.type": "zstd"})]


@pytest.mark.parametrize("millis", [2**60, -(2**60), 2**62])
def test_a_moment_that_no_calendar_has_is_none(millis: int) -> None:
    assert _moment(millis) is None


def test_the_moment_of_a_record_is_exact() -> None:
    assert _moment(1_757_154_600_123) == datetime(2025, 9, 6, 10, 30, 0, 123_000, tzinfo=UTC)
