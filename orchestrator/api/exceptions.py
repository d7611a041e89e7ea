"""The one error shape, `{"code", "message", "details"}`, and the one mapping onto HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from rest_framework import exceptions as drf

from orchestrator.api.answers import answer
from orchestrator.errors import Misconfigured, NotFound, Unauthenticated, UpbeatError

log = logging.getLogger(__name__)

#: Seconds after which a call may find the database again.
RETRY_AFTER_SECONDS = 5


def answer_error(error: BaseException, context: Mapping[str, Any] | None = None) -> HttpResponse:
    """Answer an error in the one shape. REST framework's exception handler, and what every other edge calls."""
    if isinstance(error, UpbeatError):
        return _answer_ours(error)
    if isinstance(error, drf.APIException):
        return _answer_framework(error)
    if isinstance(error, Http404):
        return _answer_ours(NotFound("There is nothing under this path."))
    if isinstance(error, DisallowedHost):
        return error_answer(400, "invalid_request", "The Host header is not one that this server answers to.")
    if isinstance(error, RequestDataTooBig):
        return error_answer(413, "too_large", "The body is too large.")
    if isinstance(error, PermissionDenied):
        return error_answer(403, "out_of_scope", "This is not allowed.")
    if isinstance(error, (SuspiciousOperation, DataError)):
        return error_answer(400, "invalid_request", "The request is not understood.")
    if isinstance(error, (OperationalError, InterfaceError)):
        log.warning("the database does not answer", extra={"reason": str(error).strip()})
        answered = error_answer(503, "unavailable", "The database does not answer; try again.")
        answered["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return answered
    log.error("a call failed", exc_info=error)
    return error_answer(500, "internal", "Something went wrong here; it is in the log.")


def error_answer(
    status: int, code: str, message: str, details: tuple[Mapping[str, Any], ...] | list[Mapping[str, Any]] = ()
) -> HttpResponse:
    return answer({"code": code, "message": message, "details": list(details)}, status=status)


def _answer_ours(error: UpbeatError) -> HttpResponse:
    if isinstance(error, Misconfigured):
        log.error("a call met a wrong setting", extra={"reason": error.message})
    answered = error_answer(error.status, error.code, error.message, [detail.as_dict() for detail in error.details])
    if isinstance(error, Unauthenticated):
        answered["WWW-Authenticate"] = 'Bearer realm="upbeat"'
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        answered["Retry-After"] = str(seconds)
    return answered


_FRAMEWORK_CODES = {
    401: "unauthenticated",
    403: "out_of_scope",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    415: "unsupported_media_type",
    429: "too_many_calls",
}


def _answer_framework(error: drf.APIException) -> HttpResponse:
    code = _FRAMEWORK_CODES.get(error.status_code, "invalid_request")
    details = list(_details(error.detail)) if isinstance(error, drf.ValidationError) else []
    message = "The request has problems." if details else str(error.detail)
    return error_answer(error.status_code, code, message, details)


def _details(detail: Any, path: str = "") -> list[Mapping[str, Any]]:
    if isinstance(detail, Mapping):
        found: list[Mapping[str, Any]] = []
        for name, inner in detail.items():
            found += _details(inner, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(detail, (list, tuple)):
        return [problem for inner in detail for problem in _details(inner, path)]
    return [{"path": path, "value": None, "expected": str(detail)}]
