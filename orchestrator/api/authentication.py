"""Who calls: a bearer token, found and counted in one statement."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from orchestrator.errors import Unauthenticated
from orchestrator.models import ApiToken
from orchestrator.services.tokens import admit_call


def token_of(request: HttpRequest | Request) -> ApiToken:
    """Return the token of a call and count the call; raises Unauthenticated or TooManyCalls."""
    header: str = request.META.get("HTTP_AUTHORIZATION", "")
    kind, _, plaintext = header.partition(" ")
    if kind.lower() != "bearer" or not plaintext.strip():
        raise Unauthenticated
    try:
        return admit_call(plaintext.strip())
    except (OperationalError, InterfaceError):
        # This is the first statement of every call: after a restart of the database it finds the connection dead,
        # and a fresh one saves the call.
        if connection.in_atomic_block:
            raise
        connection.close()
        return admit_call(plaintext.strip())


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer upb_…`. The token is both `request.user` and `request.auth`."""

    def authenticate(self, request: Request) -> tuple[ApiToken, ApiToken]:
        token = token_of(request)
        return token, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="upbeat"'


class SessionOrToken(TokenAuthentication):
    """For pages that people open in a browser: signed in to the admin, or with a token."""

    def authenticate(self, request: Request) -> tuple[ApiToken, ApiToken] | tuple[object, None]:  # type: ignore[override]
        user = getattr(request._request, "user", None)
        if user is not None and user.is_active and user.is_staff:
            return user, None
        return super().authenticate(request)
