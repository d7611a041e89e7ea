"""A source that reads Kafka topics: its fields, and what librdkafka is told of them.

Every field that can name a file or load a plugin is left out on purpose: whoever may edit a source must not thereby
run code on this machine. What else librdkafka can be told is a list of names, `EXTRA`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.conf import options
from orchestrator.errors import Misconfigured
from orchestrator.registry import FieldProblem
from triggers.sources.base import SourceKind, object_schema

#: Of the first source of a cluster; further ones append `.` and their slug, because two sources in one group would each
#: miss what the other reads.
FIRST_GROUP: Final = "schedule-trigger-group"
POLL_RECORDS: Final = 100
BATCH: Final = 500
SESSION_MS: Final = 30_000
HEARTBEAT_MS: Final = 3_000
POLL_INTERVAL_MS: Final = 120_000

#: What a source may say to librdkafka beside its typed fields: figures and names, no file, no program, no callback.
EXTRA: Final[Mapping[str, type]] = {
    "broker.address.family": str,
    "client.dns.lookup": str,
    "client.rack": str,
    "connections.max.idle.ms": int,
    "fetch.error.backoff.ms": int,
    "fetch.max.bytes": int,
    "fetch.min.bytes": int,
    "fetch.queue.backoff.ms": int,
    "fetch.wait.max.ms": int,
    "max.partition.fetch.bytes": int,
    "metadata.max.age.ms": int,
    "queued.max.messages.kbytes": int,
    "queued.min.messages": int,
    "receive.message.max.bytes": int,
    "reconnect.backoff.max.ms": int,
    "reconnect.backoff.ms": int,
    "socket.nagle.disable": bool,
    "socket.receive.buffer.bytes": int,
    "socket.send.buffer.bytes": int,
    "socket.timeout.ms": int,
    "ssl.cipher.suites": str,
    "topic.metadata.refresh.interval.ms": int,
}

_TOPIC: Final = r"[A-Za-z0-9._-]{1,249}"
_BROKERS: Final = r"[^\s,/:@]+(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

SCHEMA: Final = object_schema(
    {
        "bootstrap": {
            "type": "string",
            "minLength": 1,
            "maxLength": 2000,
            "description": "Brokers to ask first, `host:port` separated by commas; default: UPBEAT_KAFKA_BOOTSTRAP.",
        },
        "topics": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{_TOPIC}$"},
            "minItems": 1,
            "maxItems": 100,
            "uniqueItems": True,
            "description": "Topics to read, by name.",
        },
        "group_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": f"Consumer group; default: {FIRST_GROUP} for the first source, with `.` and the slug for "
            "further ones.",
        },
        "group_protocol": {
            "enum": ["classic", "consumer"],
            "description": "`consumer` is the protocol of Kafka 4 (KIP-848); default `classic`.",
        },
        "static_membership": {
            "type": "boolean",
            "description": "Keep a restarted process's partitions for it; only where its host name stays the same.",
        },
        "max_poll_records": {
            "type": "integer",
            "minimum": 1,
            "maximum": BATCH,
            "description": f"Messages of one poll at most, {POLL_RECORDS} unless given; polls are gathered to batches.",
        },
        "batch_size": {
            "type": "integer",
            "minimum": 1,
            "maximum": BATCH,
            "description": f"Messages of one transaction at most, {BATCH} unless given.",
        },
        "processes": {
            "type": "integer",
            "minimum": 1,
            "maximum": 64,
            "description": "Processes that share the partitions, 1 unless given.",
        },
        "session_timeout_ms": {"type": "integer", "minimum": 1000, "maximum": 1_800_000},
        "heartbeat_interval_ms": {"type": "integer", "minimum": 100, "maximum": 600_000},
        "max_poll_interval_ms": {"type": "integer", "minimum": 10_000, "maximum": 3_600_000},
        "tls": {"type": "boolean", "description": "Encrypt; the certificate of the broker is checked by name."},
        "sasl_mechanism": {"enum": list(MECHANISMS)},
        "username": {"type": "string", "minLength": 1, "maxLength": 500},
        "declare": {
            "type": "object",
            "propertyNames": {"pattern": f"^{_TOPIC}$"},
            "maxProperties": 100,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "partitions": {"type": "integer", "minimum": 1, "maximum": 10_000},
                    "replication_factor": {"type": "integer", "minimum": 1, "maximum": 100},
                    "retention_ms": {"type": "integer", "minimum": -1},
                    "segment_bytes": {"type": "integer", "minimum": 14},
                    "cleanup_policy": {"enum": ["delete", "compact", "compact,delete"]},
                    "compression": {"enum": ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]},
                },
                "required": ["partitions"],
                "additionalProperties": False,
            },
            "description": "Topics that `event_topology` makes and configures, by name.",
        },
        "extra": {
            "type": "object",
            "maxProperties": len(EXTRA),
            "description": "Further settings of librdkafka, from a list: " + ", ".join(EXTRA) + ".",
        },
    },
    required=["topics"],
)


def check(config: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterable[FieldProblem]:
    """Find what no schema can say of a source's fields. Pure."""
    for broker in config.get("bootstrap", "").split(",") if config.get("bootstrap") else ():
        if not re.fullmatch(_BROKERS, broker.strip()):
            yield _problem("bootstrap", "not a list of brokers", "host:port, separated by commas", config["bootstrap"])
            break
    for name, value in config.get("extra", {}).items():
        wanted = EXTRA.get(name)
        if wanted is None:
            yield _problem("extra", "not allowed", "one of " + ", ".join(EXTRA), value, name)
        elif type(value) is not wanted:
            yield _problem("extra", "of another type", {int: "a whole number", str: "text", bool: "true or false"}[wanted],
                           value, name)  # fmt: skip
    yield from _check_times(config)
    yield from _check_security(config, secrets)


def _check_times(config: Mapping[str, Any]) -> Iterable[FieldProblem]:
    session = config.get("session_timeout_ms", SESSION_MS)
    if config.get("heartbeat_interval_ms", HEARTBEAT_MS) * 3 > session:
        yield _problem(
            "heartbeat_interval_ms",
            "too long",
            "at most a third of session_timeout_ms",
            config.get("heartbeat_interval_ms"),
        )
    if config.get("max_poll_interval_ms", POLL_INTERVAL_MS) < session:
        yield _problem(
            "max_poll_interval_ms", "too short", "at least session_timeout_ms", config.get("max_poll_interval_ms")
        )
    if config.get("group_protocol") == "consumer":
        for name in ("session_timeout_ms", "heartbeat_interval_ms"):
            if name in config:
                yield _problem(name, "not known to this protocol", "left out: the broker decides", config[name])


def _check_security(config: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterable[FieldProblem]:
    if "sasl_mechanism" in config:
        if "username" not in config:
            yield _problem("username", "missing", "the name to log in with, beside sasl_mechanism")
        if "password" not in secrets:
            yield FieldProblem(("secrets", "password"), "missing", "the name of a stored secret, beside sasl_mechanism")
    elif "username" in config:
        yield _problem("sasl_mechanism", "missing", " | ".join(MECHANISMS))
    if not config.get("tls"):
        for role in ("ca", "certificate", "key", "key_password"):
            if role in secrets:
                yield _problem("tls", "missing", f"true, beside the secret {role}", config.get("tls"))
    elif ("certificate" in secrets) != ("key" in secrets):
        yield FieldProblem(("secrets",), "incomplete", "certificate and key, both or neither")


def _problem(field: str, message: str, expected: str, value: Any = None, *more: str) -> FieldProblem:
    return FieldProblem(("config", field, *more), message, expected, value)


KIND: Final = SourceKind(
    name="kafka",
    label="Kafka topics",
    schema=SCHEMA,
    secret_names=("ca", "certificate", "key", "key_password", "password"),
    # A message without an id of its own is told apart by its place, which no other message ever has.
    default_id_policy="transport",
    check=check,
)


def default_group(slug: str, *, first: bool) -> str:
    """Return the group of a source that names none."""
    return FIRST_GROUP if first else f"{FIRST_GROUP}.{slug}"


def bootstrap_of(config: Mapping[str, Any]) -> str:
    """Return the brokers of a source. Raises Misconfigured without any."""
    brokers = config.get("bootstrap") or options().kafka_bootstrap
    if not brokers:
        raise Misconfigured("Neither the source nor UPBEAT_KAFKA_BOOTSTRAP names a Kafka broker.")
    return str(brokers)


def connection_settings(config: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return what any client of this cluster is told. `secrets`: what for → the value. Raises Misconfigured."""
    sasl, tls = config.get("sasl_mechanism"), bool(config.get("tls"))
    told: dict[str, Any] = {
        "bootstrap.servers": bootstrap_of(config),
        "security.protocol": ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT"),
        "socket.keepalive.enable": True,
    }
    if sasl:
        told |= {
            "sasl.mechanism": sasl,
            "sasl.username": config["username"],
            "sasl.password": secrets.get("password", ""),
        }
    if tls:
        roles = {
            "ca": "ssl.ca.pem",
            "certificate": "ssl.certificate.pem",
            "key": "ssl.key.pem",
            "key_password": "ssl.key.password",
        }
        told |= {name: secrets[role] for role, name in roles.items() if role in secrets}
        told["ssl.endpoint.identification.algorithm"] = "https"
    return told


def consumer_settings(
    config: Mapping[str, Any], secrets: Mapping[str, str], *, group: str, client: str
) -> dict[str, Any]:
    """Return what the consumer of a source is told; `client` names its process, and its place in the group if that is
    to outlive it. Raises Misconfigured."""
    told: dict[str, Any] = {
        # Of a listener's figures: latency before everything that a batch does not need, and no hidden buffers, which
        # would take messages that the pause of a stall is meant to leave in Kafka.
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        # The default of a second starves the loop whenever the buffer was full for a moment.
        "fetch.queue.backoff.ms": 10,
        "queued.min.messages": 5000,
        "queued.max.messages.kbytes": 16384,
        "max.partition.fetch.bytes": 1 << 20,
        "topic.metadata.refresh.interval.ms": 60_000,
    }
    # Extra settings tune; what follows decides whether a message can be lost, and is not theirs to change.
    told |= {name: value for name, value in config.get("extra", {}).items() if name in EXTRA}
    told |= connection_settings(config, secrets)
    told |= {
        "client.id": client,
        "group.id": group,
        # Only what is durable is committed, by us.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # With `error` a partition that is new to the group would never be read. Keys dedupe what is read again, and
        # watermarks tell of what is gone.
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "max.poll.interval.ms": config.get("max_poll_interval_ms", POLL_INTERVAL_MS),
        "statistics.interval.ms": 15_000,
        "check.crcs": True,
    }
    if config.get("group_protocol") == "consumer":
        told["group.protocol"] = "consumer"
    else:
        told |= {
            # Never mixed with another strategy in one group: a rebalance then stops nobody who keeps what he has.
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": config.get("session_timeout_ms", SESSION_MS),
            "heartbeat.interval.ms": config.get("heartbeat_interval_ms", HEARTBEAT_MS),
        }
    if config.get("static_membership"):
        told["group.instance.id"] = client
    return told


def claims(config: Mapping[str, Any], group: str) -> frozenset[tuple[str, str, str]]:
    """Return what no two sources may share: each topic of a cluster with the group that reads it."""
    brokers = ",".join(sorted(broker.strip() for broker in (config.get("bootstrap") or "").split(",")))
    return frozenset((brokers, topic, group) for topic in config.get("topics", ()))
