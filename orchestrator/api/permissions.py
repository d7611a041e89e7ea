"""What a call may do: the action that its view does, for the job that it is about; `orchestrator.roles` decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from orchestrator.errors import Unauthenticated
from orchestrator.models import ApiToken
from orchestrator.roles import Action
from orchestrator.services.tokens import check_action


class HasScope(BasePermission):
    """The token's scopes include what the view does: the action of the method in its `actions`, else its `action`.

    Without either it is `view` for reading and `steer` for anything else.

    Views check the job themselves, once they know it, by `check_action(token, action, job_name)`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, ApiToken):
            raise Unauthenticated
        check_action(request.auth, action_of(request, view))
        return True


class IsStaffOrMayRead(BasePermission):
    """People signed in to the admin, or a token that may read."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.auth, ApiToken):
            check_action(request.auth, Action.VIEW)
        return True


def action_of(request: Request, view: Any) -> Action:
    by_method: Mapping[str, Action] = getattr(view, "actions", {})
    default = Action.VIEW if request.method in SAFE_METHODS else Action.STEER
    return by_method.get(request.method or "") or getattr(view, "action", None) or default
