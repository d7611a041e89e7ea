"""Webhooks: `POST /api/v1/hooks/{endpoint}`. Who calls proves it by what the provider signs; there is no token.

The order matters: size, endpoint, network, signature and its moment, media type, and only then is anything parsed.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema

from orchestrator.api.bases import ApiView, ErrorAnswer, TooLarge, answer, answer_error, error_answer
from orchestrator.errors import NotFound, UpbeatError
from triggers.api.serializers.receiving import ReceiptAnswer, problem_answer, receipts_answer
from triggers.cloud_events import Unreadable
from triggers.envelope import Problem, Received
from triggers.metrics import WEBHOOK_REQUESTS
from triggers.services.receiving import put_aside, receive
from triggers.services.webhooks import Endpoint, endpoint_of, envelope_text, message_of, verify
from triggers.sources.providers.base import Delivery, Verdict, accepts, kept_headers

log = logging.getLogger(__name__)

#: Providers whose senders may ask first whether they may send.
_ASKED: Final = ("cloudevents", "generic")
_REFUSALS: Final = {
    400: "The call is authentic and is no event; it is a dead letter",
    401: "The call does not prove who sent it",
    403: "The call comes from an address, or speaks as a source, that is not allowed",
    404: "No such endpoint",
    409: "Another event has this id",
    410: "The endpoint is disabled",
    413: "Body too large",
    415: "Not a media type that the provider sends, or a compressed body",
    429: "Too many calls that did not prove who sent them; see Retry-After",
    503: "The database does not answer; see Retry-After",
}


class HookDisabled(UpbeatError):
    """The endpoint is disabled."""

    code = "endpoint_disabled"
    status = 410


class Hook(ApiView):
    """The endpoint of a webhook."""

    authentication_classes = ()
    permission_classes = ()
    http_method_names = ["post", "options"]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "POST":
            return called(request, kwargs["endpoint"])
        if request.method == "OPTIONS":
            return asked(request, kwargs["endpoint"])
        return super().dispatch(request, *args, **kwargs)

    @extend_schema(
        operation_id="call_webhook",
        summary="Deliver a webhook: what signs it is its provider's",
        request={"application/json": OpenApiTypes.OBJECT},
        responses={
            202: OpenApiResponse(ReceiptAnswer, description="Stored; what it starts is started beside the answer"),
            200: OpenApiResponse(ReceiptAnswer, description="Known already, or a test of the connection"),
            **{status: OpenApiResponse(ErrorAnswer, description=words) for status, words in _REFUSALS.items()},
        },
        auth=[],
        tags=["events"],
    )
    def post(self, request: Any, endpoint: str) -> HttpResponse:
        return called(request._request, endpoint)


def called(request: HttpRequest, name: str) -> HttpResponse:
    """Answer a call to an endpoint."""
    slug = "unknown"
    try:
        endpoint = endpoint_of(name)
        if endpoint is None:
            # As much work as a signature, so that the time tells nothing that the answer does not.
            hashlib.sha256(request.body).digest()
            raise NotFound("There is no such endpoint.")
        slug = endpoint.source.slug
        answered = _received(request, endpoint)
    except Exception as error:
        answered = answer_error(error)
    WEBHOOK_REQUESTS.labels(slug, str(answered.status_code)).inc()
    return answered


def asked(request: HttpRequest, name: str) -> HttpResponse:
    """Answer who asks whether it may send, as CloudEvents' webhooks do. A callback is never called."""
    try:
        endpoint = endpoint_of(name)
        if endpoint is None:
            raise NotFound("There is no such endpoint.")
        if not endpoint.enabled:
            raise HookDisabled
    except Exception as error:
        return answer_error(error)
    answered = answer({"methods": ["POST", "OPTIONS"]})
    answered["Allow"] = "POST, OPTIONS"
    origin = request.META.get("HTTP_WEBHOOK_REQUEST_ORIGIN", "")
    allowed = endpoint.config.get("allowed_origins") or [origin]
    if origin and origin.isprintable() and origin in allowed and endpoint.provider.name in _ASKED:
        answered["WebHook-Allowed-Origin"] = origin
        answered["WebHook-Allowed-Rate"] = "*"
    return answered


def _received(request: HttpRequest, endpoint: Endpoint) -> HttpResponse:
    if not endpoint.enabled:
        raise HookDisabled
    address = request.META.get("REMOTE_ADDR") or ""
    if not endpoint.allows(address):
        return error_answer(403, "out_of_scope", "Calls from this address are not allowed.")
    if len(request.body) > endpoint.max_bytes:
        raise TooLarge(f"The body is too large: at most {endpoint.max_bytes} bytes.")
    delivery = _delivery(request)
    now = timezone.now()
    verify(endpoint, delivery, address=address, now=now)
    if (encoding := delivery.header("content-encoding").strip().lower()) not in ("", "identity"):
        return error_answer(
            415, "unsupported_media_type", f"The body is compressed ({encoding[:50]}): send it as it is."
        )
    if not accepts(delivery, endpoint.provider):
        return error_answer(415, "unsupported_media_type", f"{endpoint.provider.label} sends JSON.")
    headers = kept_headers(delivery, endpoint.provider, endpoint.config)
    try:
        messages = _messages(endpoint, delivery, headers)
    except Unreadable as error:
        problem = Problem(error.reason, str(error))
        put_aside(endpoint.source, message_of(endpoint, delivery, headers), problem)
        return problem_answer(problem)
    if messages is None:
        return answer({"ping": True})
    receipts = receive(endpoint.source, messages, now)
    return receipts_answer(receipts, batch=len(messages) != 1 or len(receipts) != 1)


def _messages(endpoint: Endpoint, delivery: Delivery, headers: dict[str, str]) -> list[Received] | None:
    """Return the messages of a call, None for a test of the connection; raises Unreadable."""
    try:
        found = endpoint.provider.events(delivery, endpoint.config)
        if found is Verdict.PING:
            return None
        if found is Verdict.AS_IT_IS:
            return [message_of(endpoint, delivery, headers)]
        return [message_of(endpoint, delivery, headers, envelope_text(form)) for form in found]
    except Unreadable:
        raise
    except Exception as error:  # the border of one call: what it holds is the sender's, and no reason to fail
        log.warning("a webhook could not be read", exc_info=error, extra={"source": endpoint.source.slug})
        raise Unreadable("malformed", f"{type(error).__name__}: {error}"[:500]) from error


def _delivery(request: HttpRequest) -> Delivery:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Delivery(request.body, headers, headers.get("content-type", ""))
