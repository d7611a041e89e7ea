"""What `doctor` says of events: sources without their secrets, brokers that are away, listeners that are silent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.db.models.functions import Now

from orchestrator.diagnosis.versions import said_of
from orchestrator.errors import UpbeatError
from orchestrator.models import Secret
from orchestrator.registry import Finding
from orchestrator.services.secrets import reveal_secrets
from triggers.listeners.health import SILENT_SECONDS
from triggers.listeners.hosting import LISTENERS
from triggers.listeners.roles import is_led
from triggers.models import EventSource, Firing, Listener, TriggerRule
from triggers.sources.webhook import CURRENT

#: Of one broker: it answers by then, or counts as away.
SECONDS: Final = 3.0
#: Brokers that are asked at once.
ASKED_AT_ONCE: Final = 8
#: AMQP's word for a queue that is not there.
NOT_FOUND: Final = 404
#: Sources that one line names.
NAMED: Final = 5


def findings() -> list[Finding]:
    """Return what is wrong with events, and what is right; nothing where nobody uses them. Changes nothing."""
    sources = list(EventSource.objects.filter(enabled=True).order_by("tenant_id", "slug"))
    listening = [source for source in sources if source.kind in LISTENERS]
    found = []
    if sources:
        found.append(_secrets(sources))
    if listening:
        found += [*_brokers(listening), _listeners(listening)]
    roles = _roles(listening)
    return [*found, roles] if roles is not None else found


def _secrets(sources: Iterable[EventSource]) -> Finding:
    sources = list(sources)
    stored = set(
        Secret.objects.filter(tenant_id__in={source.tenant_id for source in sources}).values_list("tenant_id", "name")
    )
    wrong = []
    for source in sources:
        missing = [name for name in source.secrets.values() if (source.tenant_id, name) not in stored]
        if missing:
            wrong.append(f"{source.slug} lacks {', '.join(missing)}")
        elif source.kind == "webhook" and CURRENT not in source.secrets:
            wrong.append(f"the webhook {source.slug} has none and refuses every call")
    return _finding(
        "secrets of event sources", wrong, f"{_counted(len(sources), 'source')}",
        "Store them with `manage.py set_secret`, or in the admin, and name them in the source.",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a broker says of itself, and which of the names that it was asked for it does not have."""

    detail: str = ""
    missing: tuple[str, ...] = ()
    trouble: str = ""


#: Topics or queues → the answer. Raises what the client library raises.
Ask = Callable[[Collection[str]], Answer]


@dataclass(slots=True)
class _Asked:
    ask: Ask
    slugs: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def _brokers(sources: Iterable[EventSource]) -> list[Finding]:
    """Ask every broker once, several at a time: whether it answers, and has what sources read."""
    asked: dict[str, _Asked] = {}
    found = []
    for source in sources:
        try:
            values = reveal_secrets(source.tenant_id, source.secrets.values())
            secrets = {role: values[name] for role, name in source.secrets.items()}
            name, ask = _asking(source, secrets)
        except UpbeatError as error:
            found.append(
                Finding(
                    f"broker of {source.slug}", ok=False, detail=error.message,
                    hint="Name it in the source, or in UPBEAT_KAFKA_BOOTSTRAP or UPBEAT_RABBITMQ_URL.",
                )
            )  # fmt: skip
            continue
        one = asked.setdefault(name, _Asked(ask))
        one.slugs.append(source.slug)
        one.names.update(source.config["topics" if source.kind == "kafka" else "queues"])
    with ThreadPoolExecutor(max_workers=ASKED_AT_ONCE) as pool:
        answers = list(pool.map(_answer, asked.values()))
    return [*found, *(_said(name, one, answer) for (name, one), answer in zip(asked.items(), answers, strict=True))]


def _said(name: str, one: _Asked, answer: Answer) -> Finding:
    used = f"of {_named(one.slugs)}"
    if answer.trouble:
        return Finding(name, ok=False, detail=f"{used}: {answer.trouble}", hint="Events wait in it until it answers.")
    if answer.missing:
        return Finding(
            name,
            ok=False,
            detail=f"{used}: it does not have {_named(list(answer.missing))}",
            hint="Declare what is missing with `manage.py event_topology --apply`, or correct the source.",
        )
    return Finding(name, ok=True, detail=f"{used}: {answer.detail}")


def _asking(source: EventSource, secrets: Mapping[str, str]) -> tuple[str, Ask]:
    """Return the name of a source's broker, and how to ask whether it answers. Raises Misconfigured."""
    if source.kind == "kafka":
        from triggers.sources.kafka import connection_settings

        settings = connection_settings(source.config, secrets)
        return f"Kafka at {settings['bootstrap.servers']}", lambda names: _ask_kafka(settings, names)
    from triggers.sources.rabbitmq import RabbitConfig, address_of, parameters

    address = address_of(RabbitConfig.of(source.config), secrets)
    return (
        f"RabbitMQ at {address}",
        lambda names: _ask_rabbitmq(parameters(address, secrets, name="upbeat doctor"), names),
    )


def _ask_kafka(settings: Mapping[str, Any], topics: Collection[str]) -> Answer:
    """Kafka's protocol does not tell its version; how many brokers there are, it does."""
    from confluent_kafka.admin import AdminClient

    told: dict[str, Any] = {**settings, "socket.timeout.ms": int(SECONDS * 1000), "error_cb": lambda error: None}
    cluster = AdminClient(told).list_topics(timeout=SECONDS)
    missing = tuple(sorted(set(topics) - set(cluster.topics)))
    return Answer(detail=_counted(len(cluster.brokers), "broker"), missing=missing)


def _ask_rabbitmq(parameters: Any, queues: Collection[str]) -> Answer:
    import pika
    from pika.exceptions import ChannelClosedByBroker

    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = SECONDS
    parameters.connection_attempts = 1
    with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
        version = str(connection._impl.server_properties.get("version", ""))
        missing = []
        for queue in sorted(queues):
            try:
                connection.channel().queue_declare(queue, passive=True)
            except ChannelClosedByBroker as closed:
                # 404: it is not there. Anything else, such as 405 of one that is exclusive, means that it is.
                if closed.reply_code == NOT_FOUND:
                    missing.append(queue)
        return Answer(detail=said_of("RabbitMQ", version), missing=tuple(missing))


def _answer(one: _Asked) -> Answer:
    try:
        return one.ask(one.names)
    except Exception as error:  # whatever a client library throws, the broker was not reached
        return Answer(trouble=f"{type(error).__name__} {error}".strip()[:300])


def _listeners(sources: Iterable[EventSource]) -> Finding:
    live = Listener.objects.filter(last_loop_at__gt=Now() - timedelta(seconds=SILENT_SECONDS), source__isnull=False)
    by_source: dict[int, list[Listener]] = {}
    for row in live:
        if row.source_id is not None:
            by_source.setdefault(row.source_id, []).append(row)
    wrong, paused, count = [], [], 0
    for source in sources:
        rows = by_source.get(source.pk, [])
        count += len(rows)
        if not rows:
            wrong.append(f"nobody listens to {source.slug}")
        for row in rows:
            if row.state in ("failing", "degraded"):
                wrong.append(f"{row.instance} is {row.state}: {row.reason}")
            elif row.state == "paused":
                paused.append(f"{row.instance} is paused: {row.reason}")
    detail = "; ".join([_counted(count, "live listener"), *paused[:NAMED]])
    return _finding(
        "listeners",
        wrong,
        detail,
        "Start `manage.py run_triggers`; in the embedded profile, `make demo`. Its log says more.",
    )


def _roles(listening: Iterable[EventSource]) -> Finding | None:
    """Say whether somebody releases what is held, and takes the dead letters of RabbitMQ; None if nobody has to."""
    needed = []
    if (
        TriggerRule.objects.filter(deleted_at=None, enabled=True).exists()
        or Firing.objects.filter(outcome="held").exists()
    ):
        needed.append("timers")
    if any(source.kind == "rabbitmq" for source in listening):
        needed.append("dlx-import")
    if not needed:
        return None
    wrong = [f"nobody leads {name}" for name in needed if not is_led(name)]
    return _finding("roles of events", wrong, ", ".join(needed), "Start `manage.py run_triggers`; one process leads.")


def _finding(name: str, wrong: list[str], detail: str, hint: str) -> Finding:
    if not wrong:
        return Finding(name, ok=True, detail=detail)
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return Finding(name, ok=False, detail="; ".join(wrong[:NAMED]) + more, hint=hint)


def _named(slugs: list[str]) -> str:
    return ", ".join(slugs[:NAMED]) + (f" and {len(slugs) - NAMED} more" if len(slugs) > NAMED else "")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
