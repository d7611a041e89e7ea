from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, describe, limit, page
from orchestrator.api.serializers.secrets import (
    ConnectionAnswer,
    ConnectionCall,
    ConnectionWithUsersAnswer,
    connection_answer,
    connection_with_users_answer,
)
from orchestrator.api.views.base import page_answer
from orchestrator.api.views.secrets import TenantWideView, read_hidden
from orchestrator.roles import Action
from orchestrator.selectors import connections as selectors
from orchestrator.services import connections as services


class ConnectionList(TenantWideView):
    """Stored connections, by name."""

    @describe(
        "list_connections",
        "List connections, without their passwords",
        page(ConnectionAnswer, "ConnectionPage"),
        parameters=[limit(50, 200), CURSOR],
        tag="connections",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.connections_of(
            self.tenant_id,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, connection_answer)


class ConnectionDetail(TenantWideView):
    """One connection: where it leads, who changed it and what names it."""

    actions = {"PUT": Action.CONFIGURE_SECRETS, "DELETE": Action.CONFIGURE_SECRETS}

    @describe("get_connection", "Read a connection, without its password", ConnectionWithUsersAnswer, tag="connections")
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(self._shown(name))

    @describe(
        "put_connection",
        "Store a connection, replacing what was there",
        ConnectionWithUsersAnswer,
        also=(201,),
        call=ConnectionCall,
        refusals=(409,),
        tag="connections",
    )
    def put(self, request: Request, name: str) -> HttpResponse:
        body = read_hidden(
            request,
            {
                "url": bodies.Field(
                    f"a text such as {services.SUPPORTED}", lambda v: isinstance(v, str), required=True
                ),
                "description": bodies.text(),
                "reason": bodies.text(),
            },
        )
        existed = selectors.connection_of(self.tenant_id, name) is not None
        services.set_connection(
            tenant=self.token.tenant,
            name=name,
            url=body["url"],
            description=body["description"],
            by=self.by,
            reason=body["reason"],
        )
        return answer(self._shown(name), status=200 if existed else 201)

    @describe(
        "delete_connection",
        "Delete a connection that nothing names",
        None,
        status=204,
        refusals=(409,),
        tag="connections",
    )
    def delete(self, request: Request, name: str) -> HttpResponse:
        body = bodies.read_body(request, {"reason": bodies.text()})
        services.delete_connection(tenant=self.token.tenant, name=name, by=self.by, reason=body["reason"])
        return HttpResponse(status=204)

    def _shown(self, name: str) -> dict[str, Any]:
        connection = selectors.connection_of(self.tenant_id, name)
        if connection is None:
            raise services.UnknownConnection(f"There is no connection {name}.")
        return connection_with_users_answer(connection, selectors.users_of_connection(self.token.tenant, name))
