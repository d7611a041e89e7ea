"""Sends events to where listeners and endpoints take them from: to try rules out, not for production."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.errors import InvalidRequest, Misconfigured, Refused
from orchestrator.services.secrets import reveal_secrets
from triggers.models import EventSource
from triggers.sources.kafka import connection_settings
from triggers.sources.providers.standard_webhooks import SECRET
from triggers.sources.rabbitmq import RabbitConfig, address_of, default_address, parameters
from triggers.sources.webhook import CURRENT

#: Sends one event; raises what its transport raises.
Send = Callable[[Mapping[str, Any]], None]

#: The contract's topic and exchange for business events.
TOPIC: Final = "business-events"
EXCHANGE: Final = "business.event.exchange"
SECONDS: Final = 10.0


class NotSent(Refused):
    """Somebody did not take the event."""

    code = "not_sent"


def sample(event_type: str, payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an event as the contract has them, with an id of its own; an order with a random amount by default."""
    number = random.randint(10_000, 99_999)
    order = {"orderId": f"order-{number}", "customerId": f"customer-{number % 50}", "currency": "CNY"}
    return {
        "messageId": f"emitted-{uuid.uuid4()}",
        "eventType": event_type,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "source": "emit-events",
        "payload": dict(payload) if payload is not None else {**order, "amount": round(random.uniform(1, 3000), 2)},
        "metadata": {"version": "1.0"},
    }


def secrets_of(source: EventSource) -> dict[str, str]:
    """Return what each secret of a source is for → its value. Raises UnknownSecret."""
    values = reveal_secrets(source.tenant_id, source.secrets.values())
    return {role: values[name] for role, name in source.secrets.items()}


@contextlib.contextmanager
def to_kafka(source: EventSource | None, topic: str) -> Iterator[Send]:
    """Produce to a topic as the contract says; leaving it waits for the broker. Raises Misconfigured, NotSent."""
    from confluent_kafka import KafkaError, KafkaException, Producer

    config = source.config if source is not None else {}
    secrets = secrets_of(source) if source is not None else {}
    problems: list[str] = []
    producer = Producer(
        {
            **connection_settings(config, secrets),
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 1,
            "compression.type": "lz4",
            "delivery.timeout.ms": int(SECONDS * 1000),
            "error_cb": lambda error: None,
        }
    )

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is not None:
            problems.append(error.str())

    def send(event: Mapping[str, Any]) -> None:
        key = _ordering_key(event)
        while True:
            try:
                producer.produce(topic, value=_json(event), key=key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                raise NotSent(str(error)) from error
        producer.poll(0)
        _raise_first(problems)

    yield send
    left = producer.flush(SECONDS)
    _raise_first(problems)
    if left:
        raise NotSent(f"Kafka did not confirm {left} events within {SECONDS:g} s.")


@contextlib.contextmanager
def to_rabbitmq(source: EventSource | None, exchange: str, routing_key: str) -> Iterator[Send]:
    """Publish with confirms, mandatory; the routing key is the event's type unless given. Raises Misconfigured, NotSent."""
    import pika
    from pika.exceptions import AMQPError, NackError, UnroutableError

    secrets = secrets_of(source) if source is not None else {}
    address = address_of(RabbitConfig.of(source.config), secrets) if source is not None else default_address()
    try:
        with contextlib.closing(
            pika.BlockingConnection(parameters(address, secrets, name="upbeat emit_events"))
        ) as connection:
            channel = connection.channel()
            channel.confirm_delivery()

            def send(event: Mapping[str, Any]) -> None:
                key = routing_key or str(event.get("eventType", ""))
                properties = pika.BasicProperties(
                    content_type="application/json", delivery_mode=2, message_id=str(event.get("messageId", "")) or None
                )
                try:
                    channel.basic_publish(exchange, key, _json(event), properties, mandatory=True)
                except (UnroutableError, NackError) as error:
                    raise NotSent(f"The exchange {exchange!r} has no queue for {key!r}, or it is full.") from error

            yield send
    except (AMQPError, OSError) as error:
        raise NotSent(f"RabbitMQ at {address}: {type(error).__name__} {error}".strip()) from error


@contextlib.contextmanager
def to_webhook(source: EventSource, url: str) -> Iterator[Send]:
    """Call the endpoint of a webhook, signed as its provider asks for. Raises InvalidRequest, NotSent."""
    sign = _signing(source)
    with _http() as client:

        def send(event: Mapping[str, Any]) -> None:
            body, headers = sign(event)
            _post(client, f"{url}/api/v1/hooks/{source.endpoint}", body, headers)

        yield send


@contextlib.contextmanager
def to_api(url: str, token: str) -> Iterator[Send]:
    """Call POST /api/v1/events with a token. Raises NotSent."""
    with _http() as client:

        def send(event: Mapping[str, Any]) -> None:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            _post(client, f"{url}/api/v1/events", _json(event), headers)

        yield send


def _http() -> Any:
    import httpx

    return httpx.Client(timeout=SECONDS, trust_env=False)


def _post(client: Any, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    import httpx

    try:
        answer = client.post(url, content=body, headers=headers)
    except httpx.HTTPError as error:
        raise NotSent(f"{url}: {type(error).__name__} {error}".strip()) from error
    if answer.status_code >= 300:
        raise NotSent(f"{url} answered {answer.status_code}: {answer.text[:300]}")


def _signing(source: EventSource) -> Callable[[Mapping[str, Any]], tuple[bytes, dict[str, str]]]:
    secret = secrets_of(source).get(CURRENT)
    if secret is None:
        raise Misconfigured(f"The webhook {source.slug!r} has no secret {CURRENT!r}: nothing can be signed for it.")
    provider, config = source.config.get("provider"), source.config
    if provider == "standard_webhooks":
        return lambda event: _standard(event, secret)
    if provider == "generic" and config.get("auth", "hmac") == "hmac" and "hmac" not in config:
        return lambda event: _generic(event, secret)
    if provider in ("generic", "cloudevents") and config.get("auth") in (None, "bearer") and "hmac" not in config:
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        return lambda event: (_json(event), headers)
    raise InvalidRequest(
        f"The webhook {source.slug!r} is of {provider}: events can be emitted to standard_webhooks, and to generic with "
        "its usual signature."
    )


def _standard(event: Mapping[str, Any], secret: str) -> tuple[bytes, dict[str, str]]:
    body = _json({"type": event.get("eventType"), "timestamp": event.get("timestamp"), "data": event.get("payload")})
    message_id = str(event.get("messageId") or uuid.uuid4()).replace(".", "-")
    moment = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix(SECRET))
    digest = hmac.digest(key, b".".join((message_id.encode(), moment.encode(), body)), hashlib.sha256)
    return body, {
        "webhook-id": message_id,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "Content-Type": "application/json",
    }


def _generic(event: Mapping[str, Any], secret: str) -> tuple[bytes, dict[str, str]]:
    body = _json(event)
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return body, {"X-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}


def _ordering_key(event: Mapping[str, Any]) -> str | None:
    payload = event.get("payload")
    key = payload.get("customerId") or payload.get("orderId") if isinstance(payload, Mapping) else None
    return str(key) if key is not None else None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _raise_first(problems: list[str]) -> None:
    if problems:
        raise NotSent(f"Kafka did not take an event: {problems[0]}.")
