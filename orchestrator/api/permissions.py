"""What a call may do: the scope that its view asks for, for the job that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from orchestrator.errors import Unauthenticated
from orchestrator.models import ApiToken
from orchestrator.services.tokens import OPERATE, READ, check_scope


class HasScope(BasePermission):
    """The token has the view's scope: that of the method in its `scopes`, else its `scope`.

    Without either it is `read` for reading and `operate` for anything else.

    Views check the job themselves, once they know it, by `check_scope(token, scope, job_name)`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, ApiToken):
            raise Unauthenticated
        check_scope(request.auth, scope_of(request, view))
        return True


class IsStaffOrMayRead(BasePermission):
    """People signed in to the admin, or a token that may read."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.auth, ApiToken):
            check_scope(request.auth, READ)
        return True


def scope_of(request: Request, view: Any) -> str:
    by_method: Mapping[str, str] = getattr(view, "scopes", {})
    default = READ if request.method in SAFE_METHODS else OPERATE
    return by_method.get(request.method or "") or getattr(view, "scope", None) or default
