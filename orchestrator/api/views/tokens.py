from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, answered, describe, example, limit, page, query
from orchestrator.api.serializers.tokens import NewTokenAnswer, TokenAnswer, TokenCall, token_answer
from orchestrator.api.views.base import ApiView, choices, number_cursor, page_answer
from orchestrator.models import ApiToken
from orchestrator.roles import Action
from orchestrator.selectors import tokens as selectors
from orchestrator.services.tokens import (
    DEFAULT_SCOPES,
    UnknownToken,
    grant_token,
    may_manage,
    revoke_token,
)

#: More jobs than this are all jobs.
MOST_JOBS: Final = 500

FIELDS: Final = {
    "name": bodies.name("a name that tells tokens apart, at most 200 characters"),
    "scopes": bodies.texts("a list of scopes", longest=10),
    "jobs": bodies.texts(f"a list of at most {MOST_JOBS} names of jobs", longest=MOST_JOBS),
    "expires_at": bodies.moment(),
}
_TOKEN: Final = {
    "id": 3,
    "name": "ci",
    "prefix": "upb_Zk3s9d",
    "scopes": ["read", "trigger"],
    "jobs": ["nightly-etl"],
    "created_at": "2026-12-01T08:00:00Z",
    "expires_at": "2027-03-01T00:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
}


class TokenList(ApiView):
    """The tokens of the tenant, newest first."""

    action = Action.MANAGE

    @describe(
        "list_tokens",
        "List tokens; their texts are stored nowhere",
        page(TokenAnswer, "TokenPage"),
        parameters=[
            query("revoked", "Revoked tokens instead of the others.", OpenApiTypes.BOOL, default=False),
            limit(50, 200),
            CURSOR,
        ],
        tag="tokens",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("revoked", "limit", "cursor"))
        by = self.token

        def shown(token: ApiToken) -> bool:
            return may_manage(by, token)

        found = selectors.tokens_of(
            self.tenant_id,
            shown=shown,
            revoked="true" in choices(asked.get("revoked"), "revoked", ("true", "false")),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, token_answer)

    @describe(
        "create_token",
        "Make a token; its text is in this answer and never again",
        NewTokenAnswer,
        status=201,
        call=TokenCall,
        examples=[
            example("ci", {key: _TOKEN[key] for key in ("name", "scopes", "jobs", "expires_at")}),
            answered("created", {**_TOKEN, "token": "upb_Zk3s9dWq…"}, 201),
        ],
        refusals=(413,),
        tag="tokens",
    )
    def post(self, request: Request) -> HttpResponse:
        bodies.check_query(request, ())
        body: dict[str, Any] = bodies.read_body(request, FIELDS)
        token, plaintext = grant_token(
            by=self.token,
            name=body["name"],
            scopes=body["scopes"] or DEFAULT_SCOPES,
            job_names=body["jobs"],
            expires_at=bodies.as_moment(body["expires_at"]),
        )
        return answer({**token_answer(token), "token": plaintext}, status=201)


class TokenDetail(ApiView):
    """One token."""

    action = Action.MANAGE

    @describe("get_token", "Read a token", TokenAnswer, tag="tokens")
    def get(self, request: Request, token_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(token_answer(self._token(token_id)))

    @describe("revoke_token", "Revoke a token, at once and for all", None, status=204, tag="tokens")
    def delete(self, request: Request, token_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        revoke_token(self._token(token_id), by=self.by)
        return HttpResponse(status=204)

    def _token(self, token_id: int) -> ApiToken:
        found = selectors.token_of(self.tenant_id, token_id)
        # To a token for some jobs, those that are good for others do not exist.
        if found is None or not may_manage(self.token, found):
            raise UnknownToken(f"There is no token {token_id}.")
        return found
