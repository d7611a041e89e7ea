from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.bodies import quoted
from orchestrator.api.schema import CURSOR, describe, limit, page, query
from orchestrator.api.serializers.audit import AuditRecordAnswer, audit_record_answer
from orchestrator.api.views.base import number_cursor, page_answer
from orchestrator.api.views.secrets import TenantWideView
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.roles import Action
from orchestrator.selectors import audit as selectors

FILTERS: Final[Mapping[str, OpenApiParameter]] = {
    "action": query("action", "Such as job.update; job.* is all that was done to jobs."),
    "subject": query("subject", "The kind of what was changed: job, run, task_run, rule, secret, token, user …"),
    "subject_id": query("subject_id", "Its number."),
    "name": query("name", "Its whole name at that time."),
    "by": query("by", "Who did it, such as user:anna or token:ci."),
    "surface": query("surface", "Where it came in: admin, api, command or system."),
    "from": query("from", "Not before this moment.", OpenApiTypes.DATETIME),
    "to": query("to", "Before this moment.", OpenApiTypes.DATETIME),
}


class AuditRecordList(TenantWideView):
    """Who changed and commanded what, newest first."""

    action = Action.AUDIT

    @describe(
        "list_audit_records",
        "List who changed and commanded what, newest first",
        page(AuditRecordAnswer, "AuditRecordPage"),
        parameters=[*FILTERS.values(), limit(50, 200), CURSOR],
        tag="audit-records",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, (*FILTERS, "limit", "cursor"))
        found = selectors.records_of(
            self.tenant_id,
            selectors.AuditFilter(
                action=asked.get("action"),
                subject=asked.get("subject"),
                subject_id=asked.get("subject_id"),
                name=asked.get("name"),
                by=asked.get("by"),
                surface=asked.get("surface"),
                since=_moment(asked, "from"),
                until=_moment(asked, "to"),
            ),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, audit_record_answer)


class AuditRecordDetail(TenantWideView):
    """One record."""

    action = Action.AUDIT

    @describe("get_audit_record", "Read an audit record", AuditRecordAnswer, tag="audit-records")
    def get(self, request: Request, record_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(audit_record_answer(selectors.record_of(self.tenant_id, record_id)))


def _moment(asked: Mapping[str, str], key: str) -> datetime | None:
    text = asked.get(key)
    if text is None:
        return None
    # A `+` in a query is a blank unless it was encoded.
    found = bodies.as_moment(text.replace(" ", "+"))
    if found is None:
        raise InvalidRequest(
            "The query has problems.", details=(Detail(key, quoted(text), "a moment such as 2027-01-31T06:00:00Z"),)
        )
    return found
