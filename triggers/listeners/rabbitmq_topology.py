"""Exchanges, queues and bindings of RabbitMQ: the contract's in their safer form, and those of the sources.

Looks first, makes what is missing, and never deletes: a queue that exists with other arguments is reported with both
values, for only its owner can know what may become of the messages in it.

The contract's own settings lose messages: a full queue drops its oldest ones though their publishers were told they are
safe, and `order.*` misses `order.created.v1`. So queues are quorum queues that refuse what does not fit, dead letters
move at least once, and patterns end in `#`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from orchestrator.conf import options
from orchestrator.errors import UpbeatError
from orchestrator.services.secrets import reveal_secrets
from triggers.models import EventSource
from triggers.sources.rabbitmq import (
    Address,
    Binding,
    RabbitConfig,
    address_of,
    better_pattern,
    default_address,
    parameters,
)

DAY_MS: Final = 86_400_000
DEAD_LETTERS: Final = "schedule.dlx"
DEAD_LETTER_QUEUE: Final = "schedule.dlx.queue"
#: A redelivery is no evidence against a message: what kills its reader is found in another way, long before.
DELIVERY_LIMIT: Final = 1000
SAFE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTERS,
        "x-dead-letter-strategy": "at-least-once",
    }
)
#: Of quorum queues alone.
_QUORUM_ONLY: Final = ("x-delivery-limit", "x-dead-letter-strategy")
#: Differences of one queue that are looked for: the broker names one at a time.
_DIFFERENCES: Final = 16
_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for .*?: received (?P<ours>.+?) but current is (?P<theirs>.+)$", re.S
)
_VALUE: Final = re.compile(r"(?:the value )?'(?P<text>.*?)'(?: of type '(?P<type>\w+)')?", re.S)


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    """What one broker shall have."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


@dataclass(slots=True)
class Report:
    """What a broker lacks, and what it has differently."""

    #: Sentences; what `ensure` makes, or has made.
    missing: list[str] = field(default_factory=list)
    #: Sentences; what nobody but its owner may change.
    drift: list[str] = field(default_factory=list)
    #: Sentences; patterns that most likely mean another one.
    doubts: list[str] = field(default_factory=list)

    def __iadd__(self, other: Report) -> Report:
        self.missing += other.missing
        self.drift += other.drift
        self.doubts += other.doubts
        return self


_DEAD: Final = Topology(
    (Exchange(DEAD_LETTERS, "topic"),),
    # Bound by nothing but its age: the importer takes what arrives, and the age is for the days on which none runs.
    # RabbitMQ 4 drops what it delivered 20 times to nobody's use, unless told otherwise.
    (
        Queue(
            DEAD_LETTER_QUEUE,
            {"x-queue-type": "quorum", "x-message-ttl": 7 * DAY_MS, "x-delivery-limit": DELIVERY_LIMIT},
        ),
    ),
    (Binding(DEAD_LETTER_QUEUE, DEAD_LETTERS, "#"),),
)
CONTRACT: Final = Topology(
    (Exchange("business.event.exchange", "topic"), Exchange("schedule.main.exchange", "topic"), *_DEAD.exchanges),
    (
        Queue("schedule.task.queue", {**SAFE, "x-message-ttl": DAY_MS, "x-max-length": 10_000}),
        Queue("schedule.main.queue", {**SAFE, "x-message-ttl": DAY_MS, "x-max-length": 100_000}),
        *_DEAD.queues,
    ),
    (
        Binding("schedule.task.queue", "business.event.exchange", "order.#"),
        Binding("schedule.main.queue", "schedule.main.exchange", "schedule.task.#"),
        *_DEAD.bindings,
    ),
)


def topology_of(config: RabbitConfig, base: Topology = _DEAD) -> Topology:
    """Return `base` with what a source needs. Pure. A queue of both is declared as the source says, where it says so."""
    queues = {queue.name: queue for queue in base.queues}
    for name in config.queues:
        arguments = dict(queues[name].arguments if name in queues else SAFE) | dict(config.queue_arguments)
        if arguments.get("x-queue-type") == "classic":
            arguments = {key: value for key, value in arguments.items() if key not in _QUORUM_ONLY}
        queues[name] = Queue(name, arguments)
    exchanges = {exchange.name: exchange for exchange in base.exchanges}
    exchanges |= {name: Exchange(name, kind) for name, kind in config.exchanges}
    bindings = dict.fromkeys(map(_key, base.bindings)) | dict.fromkeys(map(_key, config.bindings))
    return Topology(tuple(exchanges.values()), tuple(queues.values()), tuple(_binding(key) for key in bindings))


def _key(binding: Binding) -> tuple[str, str, str, tuple[tuple[str, Any], ...]]:
    return binding.queue, binding.exchange, binding.routing_key, tuple(sorted((binding.headers or {}).items()))


def _binding(key: tuple[str, str, str, tuple[tuple[str, Any], ...]]) -> Binding:
    queue, exchange, routing_key, headers = key
    return Binding(queue, exchange, routing_key, dict(headers) or None)


def lint(topology: Topology) -> list[str]:
    """Return a sentence for each binding that misses deeper keys. Pure."""
    kinds = {exchange.name: exchange.type for exchange in topology.exchanges}
    return [
        f"{b.exchange} → {b.queue}: `{b.routing_key}` should be {better}"
        for b in topology.bindings
        # `*` is an ordinary character to all other kinds.
        if kinds.get(b.exchange, "topic") == "topic" and (better := better_pattern(b.routing_key))
    ]


def wanted(sources: Iterable[EventSource]) -> dict[Address, tuple[Topology, Mapping[str, str]]]:
    """Return broker → what it shall have, and the secrets to reach it.

    The contract's topology belongs to the broker of UPBEAT_RABBITMQ_URL; without that and without sources there is
    nothing. Raises Misconfigured and UnknownSecret.
    """
    found: dict[Address, tuple[Topology, Mapping[str, str]]] = {}
    for source in sources:
        values = reveal_secrets(source.tenant_id, source.secrets.values())
        secrets = {role: values[name] for role, name in source.secrets.items()}
        config = RabbitConfig.of(source.config)
        address = address_of(config, secrets)
        base, known = found.get(address, (_DEAD if config.host else CONTRACT, secrets))
        found[address] = topology_of(config, base), known
    if options().rabbitmq_url and default_address() not in found:
        found[default_address()] = CONTRACT, {}
    return found


def compare(address: Address, secrets: Mapping[str, str], topology: Topology) -> Report:
    """Say what a broker lacks and what it has differently, changing nothing. Raises BrokerAway."""
    return _walk(address, secrets, topology, make=False)


def ensure(address: Address, secrets: Mapping[str, str], topology: Topology) -> Report:
    """Make what a broker lacks; what is there is left as it is. Safe to call twice. Raises BrokerAway."""
    return _walk(address, secrets, topology, make=True)


class BrokerAway(UpbeatError):
    """RabbitMQ does not answer."""

    code = "rabbitmq_away"


def _walk(address: Address, secrets: Mapping[str, str], topology: Topology, *, make: bool) -> Report:
    report = Report(doubts=lint(topology))
    try:
        connection = pika.BlockingConnection(parameters(address, secrets, name="upbeat event_topology"))
    except (AMQPError, OSError) as error:
        raise BrokerAway(f"RabbitMQ at {address} does not answer: {str(error) or type(error).__name__}") from error
    try:
        absent: set[str] = set()
        for exchange in topology.exchanges:
            if not _exists(connection, exchange):
                absent.add(exchange.name)
                report.missing.append(f"exchange {exchange.name} ({exchange.type})")
                if make:
                    with connection.channel() as channel:
                        channel.exchange_declare(exchange.name, exchange.type, durable=True)
            else:
                report.drift += _drift(connection, exchange)
        for queue in topology.queues:
            if not _exists(connection, queue):
                absent.add(queue.name)
                report.missing.append(f"queue {queue.name} ({_shown(queue.arguments)})")
                if make:
                    with connection.channel() as channel:
                        channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
            else:
                report.drift += _drift(connection, queue)
        _bind(connection, topology, absent, report, make=make)
    except (AMQPError, OSError) as error:
        raise BrokerAway(f"RabbitMQ at {address} refuses: {str(error) or type(error).__name__}") from error
    finally:
        if connection.is_open:
            connection.close()
    return report


def _bind(connection: Any, topology: Topology, absent: set[str], report: Report, *, make: bool) -> None:
    for binding in topology.bindings:
        # AMQP cannot list bindings: one between two that are there is made again, which changes nothing.
        if {binding.exchange, binding.queue} & absent:
            how = (
                binding.routing_key or ", ".join(f"{k}={v}" for k, v in (binding.headers or {}).items()) or "everything"
            )
            report.missing.append(f"binding {binding.exchange} → {binding.queue} ({how})")
        if make:
            with connection.channel() as channel:
                channel.queue_bind(
                    binding.queue,
                    binding.exchange,
                    binding.routing_key,
                    dict(binding.headers) if binding.headers else None,
                )


def _exists(connection: Any, what: Exchange | Queue) -> bool:
    channel = connection.channel()
    try:
        if isinstance(what, Exchange):
            channel.exchange_declare(what.name, passive=True)
        else:
            channel.queue_declare(what.name, passive=True)
    except ChannelClosedByBroker as error:
        if error.reply_code == 404:
            return False
        raise
    channel.close()
    return True


def _drift(connection: Any, what: Exchange | Queue) -> Iterator[str]:
    """Declare what is there once more: nothing happens if it is the same, else the broker names a difference.

    Its value is taken over, so that the next declaration finds the next difference.
    """
    kind = "exchange" if isinstance(what, Exchange) else "queue"
    declared: dict[str, Any] = {"durable": True}
    if isinstance(what, Exchange):
        declared["type"] = what.type
    arguments = dict(what.arguments) if isinstance(what, Queue) else {}
    for _ in range(_DIFFERENCES):
        channel = connection.channel()
        try:
            if isinstance(what, Exchange):
                channel.exchange_declare(what.name, declared["type"], durable=declared["durable"])
            else:
                channel.queue_declare(
                    what.name,
                    durable=declared["durable"],
                    auto_delete=declared.get("auto_delete", False),
                    arguments=arguments,
                )
        except ChannelClosedByBroker as error:
            match = _INEQUIVALENT.search(error.reply_text)
            if match is None:
                yield f"{kind} {what.name}: {error.reply_text}"
                return
            name, theirs = match["name"], _value(match["theirs"])
            ours = arguments.get(name, declared.get(name))
            yield f"{kind} {what.name}: {name} is {_word(theirs)}, wanted {_word(ours)}"
            if name in declared or name == "auto_delete":
                declared[name] = theirs
            elif theirs is None:
                arguments.pop(name, None)
            else:
                arguments[name] = theirs
            continue
        channel.close()
        return


def _value(text: str) -> Any:
    """Read a value as the broker's error writes it."""
    match = _VALUE.fullmatch(text.strip())
    if match is None:
        return None
    value = match["text"]
    if value in ("true", "false"):
        return value == "true"
    # Without a type it is one of the lengths and times; a name that is all digits would be declared as text.
    return int(value) if match["type"] != "longstr" and re.fullmatch(r"-?\d+", value) else value


def _word(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('x-')} {_word(value)}" for name, value in arguments.items())
