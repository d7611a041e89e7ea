"""Events with a token: `POST /api/v1/events`, the built-in source `api`.

One event of the contract, an array of them, or CloudEvents in any mode. They belong to the token's tenant.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import orjson
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter

from orchestrator.api.bases import answered, bodies, describe, error_answer, example, read_raw, token_of
from orchestrator.errors import Detail, InvalidRequest, OutOfScope
from orchestrator.models import ApiToken
from orchestrator.roles import Action
from orchestrator.services.tokens import check_action
from triggers.api.serializers.receiving import EnvelopeCall, ReceiptAnswer, receipts_answer
from triggers.cloud_events import is_structured, media_type, prefix_in
from triggers.envelope import Policy, Received, header_text
from triggers.ingest.batch import SourceView
from triggers.services.receiving import receive

CHANNEL: Final = "api"
#: Events of one array: as many as a batch of ingest has.
MOST: Final = 500
#: Who sends no id says that each call is a new event.
POLICY: Final = Policy(slug="api", id_policy="transport", max_bytes=bodies.LARGEST_BODY)
_KEPT: Final = ("content-type", "user-agent", "traceparent", "tracestate", "x-request-id", "x-correlation-id")
_LONGEST_KEY: Final = 200

described = describe(
    "send_event",
    "Send an event, an array of events, or CloudEvents",
    ReceiptAnswer,
    status=202,
    also=(200,),
    call=EnvelopeCall,
    parameters=[
        OpenApiParameter(
            "Idempotency-Key",
            str,
            OpenApiParameter.HEADER,
            description="Stands in for a missing messageId; without either, each call is a new event.",
        )
    ],
    refusals=(409, 413),
    examples=[
        example(
            "an order",
            {
                "messageId": "msg-20250906-123456",
                "eventType": "order.created",
                "timestamp": "2025-09-06T10:30:00Z",
                "source": "order-service",
                "payload": {"orderId": "order-12345", "amount": 999.99},
            },
        ),
        answered("stored", {"eventId": 17, "duplicate": False}, 202),
    ],
    tag="events",
)


def send_events(request: HttpRequest) -> HttpResponse:
    """Answer a call with events. Raises what refuses it."""
    token = token_of(request)
    check_action(token, Action.TRIGGER)
    _check_unlimited(token)
    body = read_raw(request, bodies.LARGEST_BODY)
    headers = {name.lower(): header_text(value) for name, value in request.headers.items()}
    content_type = headers.get("content-type", "")
    if headers.get("content-encoding", "identity") not in ("", "identity"):
        return error_answer(415, "unsupported_media_type", "The body is compressed: send it as it is.")
    kept = {name: value for name, value in headers.items() if name in _KEPT or name.startswith("ce-")}
    key = _key(headers.get("idempotency-key"))
    texts = _split(body, content_type, kept)
    messages = [
        Received(
            CHANNEL,
            text,
            content_type,
            kept,
            # Of an array each event has its own.
            message_id=(f"{key}/{index}" if len(texts) > 1 else key) if key else str(uuid.uuid4()),
        )
        for index, text in enumerate(texts)
    ]
    receipts = receive(source_of(token), messages, timezone.now())
    return receipts_answer(receipts, batch=len(receipts) != 1 or _is_batch(body, content_type))


def source_of(token: ApiToken) -> SourceView:
    """Return the built-in source `api` as a token's calls see it: their tenant is the token's."""
    return SourceView(None, token.tenant_id or token.tenant.pk, "api", "api", POLICY)


def _check_unlimited(token: ApiToken) -> None:
    if token.job_names:
        # Which jobs an event starts is for the rules to say.
        raise OutOfScope(
            "An event may start any job of the tenant, and this token is good for some alone.",
            details=(Detail("job", list(token.job_names), "a token that is not limited to jobs"),),
        )


def _split(body: bytes, content_type: str, headers: dict[str, str]) -> list[bytes]:
    """Return the messages of a body: each event of an array is one, so that a bad one hurts no other."""
    if body.lstrip()[:1] != b"[" or is_structured(content_type) or prefix_in(headers) is not None:
        return [body]
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Ingest says what is wrong with it.
        return [body]
    if not found or len(found) > MOST:
        raise InvalidRequest(
            "The body has problems.", details=(Detail("", f"{len(found)} events", f"an array of 1 to {MOST} events"),)
        )
    return [orjson.dumps(event) for event in found]


def _is_batch(body: bytes, content_type: str) -> bool:
    return media_type(content_type) == "application/cloudevents-batch+json" or body.lstrip()[:1] == b"["


def _key(given: str | None) -> str:
    if given is None:
        return ""
    if not given or len(given) > _LONGEST_KEY or not given.isprintable():
        raise InvalidRequest(
            "The Idempotency-Key has problems.",
            details=(Detail("Idempotency-Key", given[:200], f"1 to {_LONGEST_KEY} printable characters"),),
        )
    return given


__all__: list[Any] = ["described", "send_events", "source_of"]
