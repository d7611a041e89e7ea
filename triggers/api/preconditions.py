"""ETag and If-Match: whoever changes something may say which version of it they have seen."""

from __future__ import annotations

import re
from typing import Final

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from orchestrator.api.bases import quoted
from orchestrator.errors import Detail, InvalidRequest
from triggers.errors import StaleVersion

#: A proxy that compresses an answer makes its tag a weak one; the version in it is the same.
_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')

IF_MATCH: Final = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` that was read: 412 if it was changed since. Without it the change is made in any case.",
)


def with_etag(answered: HttpResponse, version: int) -> HttpResponse:
    """Return the answer with the version as its tag."""
    answered["ETag"] = f'"{version}"'
    return answered


def version_wanted(request: Request) -> int | None:
    """Return the version that a change is for, None for any; raises InvalidRequest, StaleVersion for no version."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    tags = [part.strip() for part in header.split(",")]
    found = [_TAG.fullmatch(tag) for tag in tags]
    if len(found) != 1 or found[0] is None:
        raise InvalidRequest(
            "The headers have problems.", details=(Detail("If-Match", quoted(header), 'one ETag, such as "7", or *'),)
        )
    version = found[0][1]
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise StaleVersion(
            "It has no such version: read it again.",
            details=(Detail("If-Match", quoted(header), "an ETag that was read"),),
        )
    return int(version)
