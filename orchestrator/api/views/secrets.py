from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, describe, limit, page
from orchestrator.api.serializers.secrets import (
    SecretAnswer,
    SecretCall,
    SecretWithUsersAnswer,
    secret_answer,
    secret_with_users_answer,
)
from orchestrator.api.views.base import ApiView, page_answer
from orchestrator.errors import Detail, InvalidRequest, OutOfScope
from orchestrator.roles import Action
from orchestrator.selectors import secrets as selectors
from orchestrator.services import secrets as services


class TenantWideView(ApiView):
    """Base of what belongs to no job: a token for named jobs may neither see nor change it."""

    def check_permissions(self, request: Request) -> None:
        super().check_permissions(request)
        if self.token.job_names:
            raise OutOfScope(
                "The token is good for named jobs only; this belongs to the tenant.",
                details=(Detail("jobs", list(self.token.job_names), "a token for all jobs"),),
            )


def read_hidden(request: Request, fields: Mapping[str, bodies.Field]) -> dict[str, Any]:
    """Read a body whose values must not come back in an error; raises InvalidRequest without any value."""
    try:
        return bodies.read_body(request, fields)
    except InvalidRequest as refused:
        hidden = tuple(replace(detail, value=None) for detail in refused.details)
        raise InvalidRequest(refused.message, details=hidden) from None


class SecretList(TenantWideView):
    """Stored secrets, by name."""

    @describe(
        "list_secrets",
        "List secrets, without their values",
        page(SecretAnswer, "SecretPage"),
        parameters=[limit(50, 200), CURSOR],
        tag="secrets",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.secrets_of(
            self.tenant_id,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, secret_answer)


class SecretDetail(TenantWideView):
    """One secret: who changed it and what names it."""

    actions = {"PUT": Action.CONFIGURE_SECRETS, "DELETE": Action.CONFIGURE_SECRETS}

    @describe("get_secret", "Read a secret, without its value", SecretWithUsersAnswer, tag="secrets")
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(self._shown(name))

    @describe(
        "put_secret",
        "Store a secret, replacing what was there",
        SecretWithUsersAnswer,
        also=(201,),
        call=SecretCall,
        tag="secrets",
    )
    def put(self, request: Request, name: str) -> HttpResponse:
        body = read_hidden(
            request,
            {
                "value": bodies.Field("a text of 1 byte to 64 KiB", lambda v: isinstance(v, str), required=True),
                "reason": bodies.text(),
            },
        )
        existed = selectors.secret_of(self.tenant_id, name) is not None
        services.set_secret(tenant=self.token.tenant, name=name, value=body["value"], by=self.by, reason=body["reason"])
        return answer(self._shown(name), status=200 if existed else 201)

    @describe("delete_secret", "Delete a secret that nothing names", None, status=204, refusals=(409,), tag="secrets")
    def delete(self, request: Request, name: str) -> HttpResponse:
        body = bodies.read_body(request, {"reason": bodies.text()})
        services.delete_secret(tenant=self.token.tenant, name=name, by=self.by, reason=body["reason"])
        return HttpResponse(status=204)

    def _shown(self, name: str) -> dict[str, Any]:
        secret = selectors.secret_of(self.tenant_id, name)
        if secret is None:
            raise services.UnknownSecret(f"There is no secret {name}.")
        return secret_with_users_answer(secret, selectors.users_of_secret(self.token.tenant, name))
