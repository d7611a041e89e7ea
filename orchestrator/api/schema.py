"""What the OpenAPI document says beyond the views: the token, the error shape, pages of lists."""

from __future__ import annotations

from functools import cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    inline_serializer,
)
from rest_framework import serializers


class TokenScheme(OpenApiAuthenticationExtension):
    """Names the bearer token in the document; found by drf-spectacular on import."""

    target_class = "orchestrator.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "upb_…"}


class DetailAnswer(serializers.Serializer):
    """One problem: where, the value found, what was expected."""

    path = serializers.CharField()
    value = serializers.JSONField()
    expected = serializers.CharField()


class ErrorAnswer(serializers.Serializer):
    """Every refusal, of whatever kind."""

    code = serializers.CharField()
    message = serializers.CharField()
    details = DetailAnswer(many=True)


@cache
def page(item: type[serializers.Serializer], name: str) -> Any:
    """Return the schema of a page of such items, the same one for the same name."""
    fields: dict[str, Any] = {
        "items": item(many=True),
        "next": serializers.CharField(allow_null=True, help_text="`cursor` of the next page."),
    }
    return inline_serializer(name=name, fields=fields)


def query(name: str, meaning: str, kind: Any = OpenApiTypes.STR, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=meaning, **more)


CURSOR = query("cursor", "`next` of the page before.")


def limit(default: int, most: int) -> OpenApiParameter:
    return query("limit", f"Items of a page, at most {most}.", OpenApiTypes.INT, default=default)


def example(name: str, value: Any, **more: Any) -> OpenApiExample:
    """Return an example of what is sent."""
    return OpenApiExample(name, value=value, request_only=True, **more)


def answered(name: str, value: Any, status: int = 200, **more: Any) -> OpenApiExample:
    """Return an example of an answer."""
    return OpenApiExample(name, value=value, response_only=True, status_codes=[str(status)], **more)


_REFUSALS = {
    400: "The request has problems",
    401: "No valid token",
    403: "Out of the token's scope",
    404: "Unknown",
    409: "The state does not allow it",
    412: "It was changed since it was read; see ETag",
    413: "Body too large",
    422: "The idempotency key was used for another request, or what the body names is not there",
    429: "Too many calls; see Retry-After",
    503: "Something that this needs does not answer; see Retry-After",
}


def describe(
    operation_id: str,
    summary: str,
    answer: Any,
    *,
    status: int = 200,
    call: Any = None,
    parameters: list[OpenApiParameter] | None = None,
    refusals: tuple[int, ...] = (),
    also: tuple[int, ...] = (),
    media_type: str = "",
    examples: list[OpenApiExample] | None = None,
    tag: str,
) -> Any:
    """Describe an endpoint: `extend_schema` with the answers that all of them share.

    `also` names other statuses with the same answer, `media_type` one that is not JSON.
    """
    responses: dict[Any, Any] = {
        (code, media_type) if media_type else code: answer for code in dict.fromkeys((status, *also))
    }
    with_body = {413} if call is not None else set()
    for code in sorted({400, 401, 403, 404, 429, 503} | with_body | set(refusals)):
        responses[code] = OpenApiResponse(ErrorAnswer, description=_REFUSALS[code])
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        request=call,
        responses=responses,
        parameters=parameters,
        examples=examples,
        tags=[tag],
    )
