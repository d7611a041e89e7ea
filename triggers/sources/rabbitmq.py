"""A source that reads queues of RabbitMQ: its fields, what is wrong with them, and how to connect.

Every field is typed and listed: none of them is handed on to the client library by name.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote, urlsplit

from orchestrator.conf import options
from orchestrator.errors import Misconfigured
from orchestrator.registry import FieldProblem
from triggers.sources.base import SourceKind, object_schema

if TYPE_CHECKING:
    import pika

PREFETCH: Final = 1000
BATCH: Final = 500
#: Names of AMQP are short strings: 255 bytes.
_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 255}
EXCHANGE_TYPES: Final = ("direct", "topic", "fanout", "headers")
#: Field of ours → argument of a queue's declaration.
QUEUE_ARGUMENTS: Final[Mapping[str, str]] = {
    "type": "x-queue-type",
    "max_length": "x-max-length",
    "max_length_bytes": "x-max-length-bytes",
    "message_ttl_ms": "x-message-ttl",
    "overflow": "x-overflow",
    "delivery_limit": "x-delivery-limit",
    "dead_letter_exchange": "x-dead-letter-exchange",
    "dead_letter_routing_key": "x-dead-letter-routing-key",
    "dead_letter_strategy": "x-dead-letter-strategy",
    "single_active_consumer": "x-single-active-consumer",
}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}

SCHEMA: Final = object_schema(
    {
        "host": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "description": "Name or address of the broker; default: the broker of UPBEAT_RABBITMQ_URL.",
        },
        "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "Default 5672, with TLS 5671."},
        "vhost": {**_NAME, "description": "Virtual host, default `/`."},
        "user": {**_NAME, "description": "Its password is the secret `password`."},
        "tls": {
            "type": "boolean",
            "description": "Speak AMQPS. The secrets `ca`, `certificate` and `key` are PEM texts; without `ca` the "
            "system's authorities are trusted.",
        },
        "queues": {
            "type": "array",
            "items": _NAME,
            "minItems": 1,
            "maxItems": 32,
            "uniqueItems": True,
            "description": "Queues to read: a process for each.",
        },
        "prefetch": {
            "type": "integer",
            "minimum": 1,
            "maximum": 65535,
            "description": f"Messages a process may hold that are not durable yet, default {PREFETCH}.",
        },
        "batch": {
            "type": "integer",
            "minimum": 1,
            "maximum": BATCH,
            "description": f"Messages of one transaction at most, default {BATCH}.",
        },
        "heartbeat_seconds": {"type": "integer", "minimum": 5, "maximum": 600, "description": "Default 30."},
        "single_active_consumer": {
            "type": "boolean",
            "description": "Declare the queues so that one process reads at a time: keeps the order of a queue.",
        },
        "exchanges": {
            "type": "array",
            "maxItems": 32,
            "description": "Exchanges that `event_topology` declares beside those of the contract.",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "type"],
                "properties": {"name": _NAME, "type": {"enum": list(EXCHANGE_TYPES)}},
            },
        },
        "queue_arguments": {
            "type": "object",
            "additionalProperties": False,
            "description": "How `event_topology` declares the queues.",
            "properties": {
                "type": {"enum": ["quorum", "classic"]},
                "max_length": _COUNT,
                "max_length_bytes": _COUNT,
                "message_ttl_ms": _COUNT,
                "overflow": {"enum": ["reject-publish", "drop-head", "reject-publish-dlx"]},
                "delivery_limit": _COUNT,
                "dead_letter_exchange": _NAME,
                "dead_letter_routing_key": _NAME,
                "dead_letter_strategy": {"enum": ["at-least-once", "at-most-once"]},
                "single_active_consumer": {"type": "boolean"},
            },
        },
        "bindings": {
            "type": "array",
            "maxItems": 256,
            "description": "What `event_topology` binds.",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["queue", "exchange"],
                "properties": {
                    "queue": _NAME,
                    "exchange": _NAME,
                    "routing_key": {"type": "string", "maxLength": 255},
                    "headers": {
                        "type": "object",
                        "maxProperties": 32,
                        "additionalProperties": {"type": ["string", "integer", "boolean"]},
                        "description": "Of a `headers` exchange; `x-match` is `all` or `any`.",
                    },
                },
            },
        },
        "processes": {
            "type": "integer",
            "minimum": 1,
            "maximum": 64,
            "description": "Processes that share each queue, 1 unless given.",
        },
    },
    required=["queues"],
)
SECRETS: Final = ("password", "ca", "certificate", "key")


@dataclass(frozen=True, slots=True)
class Binding:
    """A queue behind an exchange. `headers` is for exchanges of that type, the routing key for the others."""

    queue: str
    exchange: str
    routing_key: str = ""
    headers: Mapping[str, str | int | bool] | None = None


@dataclass(frozen=True, slots=True)
class RabbitConfig:
    """A checked configuration, with defaults filled in."""

    host: str
    port: int | None
    vhost: str
    user: str
    tls: bool
    queues: tuple[str, ...]
    prefetch: int
    batch: int
    heartbeat_seconds: int
    queue_arguments: Mapping[str, Any]
    exchanges: tuple[tuple[str, str], ...]
    bindings: tuple[Binding, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read a stored configuration, which was checked when it was stored."""
        arguments = dict(config.get("queue_arguments") or {})
        if config.get("single_active_consumer"):
            arguments["single_active_consumer"] = True
        return cls(
            host=config.get("host", ""),
            port=config.get("port"),
            vhost=config.get("vhost", "/"),
            user=config.get("user", ""),
            tls=bool(config.get("tls")),
            queues=tuple(config["queues"]),
            prefetch=config.get("prefetch", PREFETCH),
            batch=config.get("batch", min(BATCH, config.get("prefetch", PREFETCH))),
            heartbeat_seconds=config.get("heartbeat_seconds", 30),
            queue_arguments={QUEUE_ARGUMENTS[name]: value for name, value in arguments.items()},
            exchanges=tuple((exchange["name"], exchange["type"]) for exchange in config.get("exchanges", ())),
            bindings=tuple(
                Binding(b["queue"], b["exchange"], b.get("routing_key", ""), b.get("headers"))
                for b in config.get("bindings", ())
            ),
        )


def check(config: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterator[FieldProblem]:
    """Find what no schema can say of a source's fields. Pure."""
    if not config.get("host"):
        for name in ("port", "vhost", "user", "tls"):
            if name in config:
                yield _problem("only beside `host`", "nothing: all is in UPBEAT_RABBITMQ_URL", config[name], name)
        for role in secrets:
            yield FieldProblem(("secrets", role), "only beside `host`", "nothing: all is in UPBEAT_RABBITMQ_URL")
    elif not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", config["host"]):
        yield _problem("no host", "a name or an address, without scheme and port", config["host"], "host")
    elif "user" in config and "password" not in secrets:
        yield FieldProblem(("secrets", "password"), "missing", "the name of a stored secret, beside `user`")
    if config.get("host") and not config.get("tls"):
        for role in ("ca", "certificate", "key"):
            if role in secrets:
                yield _problem("missing", f"true, beside the secret {role}", config.get("tls"), "tls")
    elif ("certificate" in secrets) != ("key" in secrets):
        yield FieldProblem(("secrets",), "incomplete", "certificate and key, both or neither")
    batch = config.get("batch", min(BATCH, config.get("prefetch", PREFETCH)))
    if batch > config.get("prefetch", PREFETCH):
        # The broker would wait for acknowledgements, and we for a full batch.
        yield _problem("too large", "no more than `prefetch`", batch, "batch")
    yield from _argument_problems(config.get("queue_arguments", {}))
    for index, binding in enumerate(config.get("bindings", ())):
        if binding["queue"] not in config["queues"]:
            yield _problem("not read", "one of `queues`", binding["queue"], "bindings", index, "queue")
        key = binding.get("routing_key", "")
        if expected := better_pattern(key):
            yield _problem("misses deeper keys", expected, key, "bindings", index, "routing_key")


def _argument_problems(arguments: Mapping[str, Any]) -> Iterator[FieldProblem]:
    if arguments.get("type") == "classic":
        for name in ("delivery_limit", "dead_letter_strategy"):
            if name in arguments:
                yield _problem("not of a classic queue", "a quorum queue", arguments[name], "queue_arguments", name)
    elif arguments.get("overflow") == "reject-publish-dlx":
        yield _problem("not of a quorum queue", "reject-publish", "reject-publish-dlx", "queue_arguments", "overflow")
    if arguments.get("overflow") == "drop-head":
        # The oldest messages would vanish, though their publishers were told that they are safe.
        yield _problem(
            "loses messages", "reject-publish: the publisher is told", "drop-head", "queue_arguments", "overflow"
        )


def _problem(message: str, expected: str, value: Any, *path: str | int) -> FieldProblem:
    return FieldProblem(("config", *path), message, expected, value)


KIND: Final = SourceKind(
    name="rabbitmq",
    label="RabbitMQ queues",
    schema=SCHEMA,
    secret_names=SECRETS,
    # A delivery has no place of its own that a redelivery would share: only its producer can tell.
    default_id_policy="require",
    check=check,
)


def better_pattern(routing_key: str) -> str | None:
    """Return what a binding most likely means that ends in exactly one word of any kind, None for any other."""
    if routing_key == "*" or routing_key.endswith(".*"):
        return f"{routing_key[:-1]}#: `*` is exactly one word, {routing_key[:-1]}created.v1 would reach no queue"
    return None


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, and who we are to it."""

    host: str
    port: int | None = None
    vhost: str = "/"
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    tls: bool = False

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Read an amqp:// or amqps:// URL."""
        parts = urlsplit(url)
        return cls(
            host=parts.hostname or "localhost",
            port=parts.port,
            # As everywhere in AMQP: `…:5672//`, `…:5672/%2F` and `…:5672` are the virtual host `/`.
            vhost=unquote(parts.path[1:]) or "/",
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            tls=parts.scheme == "amqps",
        )

    def __str__(self) -> str:
        port = self.port or (5671 if self.tls else 5672)
        return f"{self.host}:{port} vhost {self.vhost}"


def default_address() -> Address:
    """Return the broker of UPBEAT_RABBITMQ_URL. Raises Misconfigured without one."""
    url = options().rabbitmq_url
    if not url:
        raise Misconfigured("Neither the source nor UPBEAT_RABBITMQ_URL names a RabbitMQ.")
    return Address.of_url(url)


def address_of(config: RabbitConfig, secrets: Mapping[str, str]) -> Address:
    """Return the broker of a source. `secrets`: values by what they are for. Raises Misconfigured."""
    if not config.host:
        return default_address()
    user, password = config.user or "guest", secrets.get("password", "guest")
    return Address(config.host, config.port, config.vhost, user, password, config.tls)


def parameters(
    address: Address, secrets: Mapping[str, str] = MappingProxyType({}), *, name: str, heartbeat_seconds: int = 30
) -> pika.ConnectionParameters:
    """Return how to connect; `name` is how the broker's own pages call the connection. Raises Misconfigured."""
    import pika

    return pika.ConnectionParameters(
        host=address.host,
        port=address.port or (5671 if address.tls else 5672),
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        ssl_options=pika.SSLOptions(_tls_context(secrets), address.host) if address.tls else None,
        heartbeat=heartbeat_seconds,
        blocked_connection_timeout=60,
        socket_timeout=10,
        stack_timeout=15,
        client_properties={"connection_name": name},
    )


def _tls_context(secrets: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=secrets.get("ca") or None)
        if secrets.get("certificate"):
            with _file(secrets["certificate"] + "\n" + secrets.get("key", "")) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"The source's TLS secrets are no certificates in PEM: {error}") from None
    return context


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """Python's TLS takes a certificate of one's own from a file alone: one that exists for a moment, for us only."""
    handle, path = tempfile.mkstemp(prefix="upbeat-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        yield path
    finally:
        os.unlink(path)
