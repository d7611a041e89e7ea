"""Topics of Kafka: the contract's and those that sources declare, each with one beside it for its dead letters.

Looks first, makes what is missing, alters settings one by one, and never destroys: a topic is never deleted, partitions
are only ever added, and a replication factor that differs is reported.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from orchestrator.conf import options
from orchestrator.errors import UpbeatError
from orchestrator.services.secrets import reveal_secrets
from triggers.models import EventSource
from triggers.sources.kafka import bootstrap_of, connection_settings

DAY_MS: Final = 86_400_000
#: What a topic has unless it says otherwise; a cluster of fewer brokers says so on the command line.
REPLICATION: Final = 3
ASK_SECONDS: Final = 10.0
#: Field of a source's `declare` → setting of a topic.
_SETTINGS: Final[Mapping[str, str]] = {
    "retention_ms": "retention.ms",
    "segment_bytes": "segment.bytes",
    "cleanup_policy": "cleanup.policy",
    "compression": "compression.type",
}


class ClusterAway(UpbeatError):
    """Kafka does not answer, or refuses what was asked of it."""

    code = "kafka_away"


class TooFewBrokers(UpbeatError):
    """A topic shall have more copies than there are brokers."""

    code = "too_few_brokers"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it shall be, or as it is."""

    name: str
    partitions: int
    replication: int = REPLICATION
    settings: Mapping[str, str] = field(default_factory=dict)


CONTRACT: Final = (
    Topic(
        "business-events",
        12,
        settings=MappingProxyType(
            {
                "retention.ms": str(7 * DAY_MS),
                "segment.bytes": "1073741824",
                "cleanup.policy": "delete",
                "compression.type": "snappy",
            }
        ),
    ),
    Topic(
        "schedule-tasks",
        6,
        settings=MappingProxyType(
            {
                "retention.ms": str(DAY_MS),
                "segment.bytes": "536870912",
                "cleanup.policy": "delete",
                "compression.type": "lz4",
            }
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do for one topic. Empty: nothing."""

    create: Topic | None = None
    #: Total number of partitions that there shall be.
    partitions: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What a cluster lacks, and what it has differently."""

    #: Sentences; what `ensure` makes, or has made.
    missing: list[str] = field(default_factory=list)
    #: Sentences; what is left as it is.
    drift: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def dead_letters_of(topic: Topic) -> Topic:
    """Return the topic for copies of a topic's dead letters. Pure."""
    return Topic(
        f"{topic.name}.dlq",
        topic.partitions,
        topic.replication,
        MappingProxyType({"retention.ms": str(7 * DAY_MS), "cleanup.policy": "delete"}),
    )


def declared_in(config: Mapping[str, Any]) -> list[Topic]:
    """Return what a source declares. Pure."""
    return [
        Topic(
            name,
            said["partitions"],
            said.get("replication_factor", REPLICATION),
            {setting: str(said[known]) for known, setting in _SETTINGS.items() if known in said},
        )
        for name, said in (config.get("declare") or {}).items()
    ]


def compare_topic(wanted: Topic, there: Topic | None) -> tuple[Changes, Report]:
    """Say what to do for a topic, and what of it is left as it is. Pure."""
    report = Report()
    if there is None:
        settings = ", ".join(f"{name}={value}" for name, value in wanted.settings.items())
        report.missing.append(
            f"topic {wanted.name}: {wanted.partitions} partitions, replication factor {wanted.replication}"
            + (settings and f", {settings}")
        )
        return Changes(create=wanted), report
    more = None
    if wanted.partitions > there.partitions:
        more = wanted.partitions
        report.missing.append(f"topic {wanted.name}: {there.partitions} → {wanted.partitions} partitions")
    elif wanted.partitions < there.partitions:
        report.drift.append(
            f"topic {wanted.name}: {there.partitions} partitions, wanted {wanted.partitions}; they cannot become fewer"
        )
    if wanted.replication != there.replication:
        report.drift.append(f"topic {wanted.name}: replication factor {there.replication}, wanted {wanted.replication}")
    altered = {name: value for name, value in wanted.settings.items() if there.settings.get(name) != value}
    report.missing += [
        f"topic {wanted.name}: {name} {there.settings.get(name, 'not set')} → {value}"
        for name, value in altered.items()
    ]
    return Changes(partitions=more, settings=altered), report


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and what it shall have."""

    bootstrap: str
    settings: Mapping[str, Any] = field(repr=False)
    topics: tuple[Topic, ...] = ()
    #: Topic → the slugs of the sources that read it.
    read: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"Kafka at {self.bootstrap}"


def wanted(sources: Iterable[EventSource], *, replication: int | None = None) -> list[Cluster]:
    """Return the clusters, each with what it shall have; `replication` replaces every replication factor.

    The contract's topics belong to the cluster of UPBEAT_KAFKA_BOOTSTRAP; without that and without sources there is
    nothing. Raises Misconfigured and UnknownSecret.
    """
    found: dict[str, tuple[dict[str, Any], dict[str, Topic], dict[str, list[str]]]] = {}
    if options().kafka_bootstrap:
        brokers = bootstrap_of({})
        found[brokers] = (connection_settings({}, {}), {topic.name: topic for topic in CONTRACT}, {})
    for source in sources:
        brokers = bootstrap_of(source.config)
        values = reveal_secrets(source.tenant_id, source.secrets.values())
        secrets = {role: values[name] for role, name in source.secrets.items()}
        settings, topics, read = found.setdefault(brokers, ({}, {}, {}))
        # Whoever can log in says how; a source without a password must not take it from another.
        if source.secrets or not settings:
            settings.update(connection_settings(source.config, secrets))
        topics.update({topic.name: topic for topic in declared_in(source.config)})
        for name in source.config["topics"]:
            read.setdefault(name, []).append(source.slug)
    return [
        Cluster(
            brokers,
            settings,
            tuple(_copied(each, replication) for topic in topics.values() for each in (topic, dead_letters_of(topic))),
            {name: tuple(slugs) for name, slugs in read.items()},
        )
        for brokers, (settings, topics, read) in found.items()
    ]


def _copied(topic: Topic, replication: int | None) -> Topic:
    return topic if replication is None else Topic(topic.name, topic.partitions, replication, topic.settings)


def compare(cluster: Cluster) -> Report:
    """Say what a cluster lacks and what it has differently, changing nothing. Raises ClusterAway."""
    return _walk(cluster, make=False)


def ensure(cluster: Cluster) -> Report:
    """Make what a cluster lacks. Safe to call twice. Raises ClusterAway, and TooFewBrokers before anything is made."""
    return _walk(cluster, make=True)


def _walk(cluster: Cluster, *, make: bool) -> Report:
    admin = AdminClient({**cluster.settings, "log_level": 0})
    whole = Report()
    try:
        listed = admin.list_topics(timeout=ASK_SECONDS)
        there = _there(admin, cluster, listed.topics)
        changes = []
        for topic in cluster.topics:
            change, report = compare_topic(topic, there.get(topic.name))
            changes.append((topic.name, change))
            whole.missing += report.missing
            whole.drift += report.drift
        known = {topic.name for topic in cluster.topics}
        whole.doubts += [
            f"topic {name} is read by {', '.join(slugs)}, but it neither exists nor does a source declare it"
            for name, slugs in cluster.read.items()
            if name not in listed.topics and name not in known
        ]
        _check_brokers(changes, len(listed.brokers))
        if make:
            for name, change in changes:
                _do(admin, name, change)
            _wait_until_known(admin, changes)
    except KafkaException as error:
        raise ClusterAway(f"{cluster}: {error.args[0].str()}") from error
    return whole


def _wait_until_known(admin: AdminClient, changes: Iterable[tuple[str, Changes]]) -> None:
    """A broker tells of what the controller has made a moment later: whoever reads next shall find it."""
    wanted = {name: change.create.partitions if change.create else change.partitions or 0 for name, change in changes}
    deadline = time.monotonic() + ASK_SECONDS
    while time.monotonic() < deadline:
        listed = admin.list_topics(timeout=ASK_SECONDS).topics
        if all(name in listed and len(listed[name].partitions) >= count for name, count in wanted.items()):
            return
        time.sleep(0.05)


def _check_brokers(changes: Iterable[tuple[str, Changes]], brokers: int) -> None:
    for name, change in changes:
        if change.create is not None and change.create.replication > brokers:
            raise TooFewBrokers(
                f"Topic {name} shall have {change.create.replication} copies, but there are {brokers} brokers: give "
                f"--replication-factor {brokers}, or start more."
            )


def _there(admin: AdminClient, cluster: Cluster, listed: Mapping[str, Any]) -> dict[str, Topic]:
    names = [topic.name for topic in cluster.topics if topic.name in listed]
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    settings = {
        resource.name: {name: str(entry.value) for name, entry in future.result(ASK_SECONDS).items()}
        for resource, future in admin.describe_configs(resources, request_timeout=ASK_SECONDS).items()
    }
    return {
        name: Topic(
            name,
            len(listed[name].partitions),
            min((len(one.replicas) for one in listed[name].partitions.values()), default=0),
            settings[name],
        )
        for name in names
    }


def _do(admin: AdminClient, name: str, change: Changes) -> None:
    if change.create is not None:
        made = change.create
        new = NewTopic(
            name, num_partitions=made.partitions, replication_factor=made.replication, config=dict(made.settings)
        )
        admin.create_topics([new], operation_timeout=ASK_SECONDS)[name].result(ASK_SECONDS)
    if change.partitions is not None:
        admin.create_partitions([NewPartitions(name, change.partitions)])[name].result(ASK_SECONDS)
    if change.settings:
        entries = [
            ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
            for setting, value in change.settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(ASK_SECONDS)
