from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api.bases import (
    CURSOR,
    ReasonCall,
    TenantWideView,
    answer,
    base_url,
    bodies,
    choices,
    describe,
    example,
    limit,
    page,
    page_answer,
    query,
)
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.roles import Action
from triggers.api.preconditions import IF_MATCH, version_wanted, with_etag
from triggers.api.serializers.sources import (
    SourceAnswer,
    SourceCall,
    SourceDetailAnswer,
    source_answer,
    source_detail_answer,
)
from triggers.models import EventSource
from triggers.models.sources import KINDS
from triggers.selectors import sources as selectors
from triggers.services import sources as services
from triggers.services.sources import SourceSpec

#: What an answer shows of a source beside its definition: in a call it is read over.
SHOWN_ONLY: Final = (
    "id", "url", "kind", "version", "endpoint", "hook_url", "created_at", "updated_at", "updated_by", "listeners",
)  # fmt: skip
_EXAMPLE: Final = {
    "slug": "deployments",
    "type": "webhook",
    "config": {"provider": "github"},
    "secrets": {"secret": "github-webhook"},
}
EXAMPLES: Final = [example("webhook", _EXAMPLE)]


class SourceView(TenantWideView):
    """Base of what is about event sources."""

    def source(self, slug: str) -> EventSource:
        return selectors.source_of(self.tenant_id, slug)

    def shown(self, request: Request, row: EventSource, *, status: int = 200) -> HttpResponse:
        body = source_detail_answer(row, selectors.listeners_of(row), base_url(request))
        return with_etag(answer(body, status=status), row.version)

    def spec(self, request: Request, *, slug: str | None = None) -> SourceSpec:
        """Read a source; `slug`, if given, is the one that the body must be about."""
        form = {key: value for key, value in bodies.read_object(request).items() if key not in SHOWN_ONLY}
        if slug is not None:
            form = {"slug": slug, **form}
        return read_spec(form, slug=slug)


def read_spec(form: Mapping[str, Any], *, slug: str | None = None) -> SourceSpec:
    """Read the fields of a source, all problems of their types at once; raises InvalidRequest."""
    problems = [
        Detail(name[:200], bodies.quoted(value), "no such field; known: " + ", ".join(services.FIELDS))
        for name, value in form.items()
        if name not in services.FIELDS
    ]
    expected = {
        "slug": ("a text", str),
        "type": ("one of " + ", ".join(KINDS), str),
        "config": ("an object", dict),
        "secrets": ("an object: what for → the name of a stored secret", dict),
        "id_policy": ("a text", str),
        "enabled": ("true or false", bool),
    }
    problems += [
        Detail(name, bodies.quoted(form.get(name)), text)
        for name, (text, kind) in expected.items()
        if (name in form and not isinstance(form[name], kind)) or (name in ("slug", "type") and name not in form)
    ]
    secrets = form.get("secrets", {})
    if isinstance(secrets, dict):
        problems += [
            Detail(f"secrets.{role}"[:200], None, "the name of a stored secret")
            for role, name in secrets.items()
            if not isinstance(name, str)
        ]
    if slug is not None and form.get("slug") != slug:
        problems.append(Detail("slug", bodies.quoted(form.get("slug")), f"{slug}, the source of this path"))
    if problems:
        raise InvalidRequest("The body has problems.", details=tuple(problems))
    return SourceSpec(
        form["slug"],
        form["type"],
        form.get("config", {}),
        secrets,
        form.get("id_policy", ""),
        form.get("enabled", True),
    )


class SourceList(SourceView):
    """Event sources, by name."""

    actions = {"POST": Action.DEFINE}

    @describe(
        "list_event_sources",
        "List event sources",
        page(SourceAnswer, "EventSourcePage"),
        parameters=[query("type", "One of " + ", ".join(KINDS) + "."), limit(50, 200), CURSOR],
        tag="event-sources",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("type", "limit", "cursor"))
        kinds = choices(asked.get("type"), "type", KINDS)
        found = selectors.sources_of(
            self.tenant_id,
            kinds=kinds,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: source_answer(row, base))

    @describe(
        "create_event_source",
        "Create an event source; a webhook gets its endpoint",
        SourceDetailAnswer,
        status=201,
        call=SourceCall,
        refusals=(409, 413),
        examples=EXAMPLES,
        tag="event-sources",
    )
    def post(self, request: Request) -> HttpResponse:
        bodies.check_query(request, ())
        row = services.create_source(tenant=self.token.tenant, spec=self.spec(request), by=self.by)
        answered = self.shown(request, row, status=201)
        answered["Location"] = f"{base_url(request)}/api/v1/event-sources/{row.slug}"
        return answered


class SourceDetail(SourceView):
    """One event source, and who listens to it."""

    actions = {"PUT": Action.DEFINE, "DELETE": Action.DEFINE}

    @describe("get_event_source", "Read an event source", SourceDetailAnswer, tag="event-sources")
    def get(self, request: Request, slug: str) -> HttpResponse:
        bodies.check_query(request, ())
        return self.shown(request, self.source(slug))

    @describe(
        "replace_event_source",
        "Replace an event source; its listeners begin anew",
        SourceDetailAnswer,
        call=SourceCall,
        parameters=[IF_MATCH],
        refusals=(409, 412, 413),
        examples=EXAMPLES,
        tag="event-sources",
    )
    def put(self, request: Request, slug: str) -> HttpResponse:
        bodies.check_query(request, ())
        version = version_wanted(request)
        self.source(slug)
        row = services.replace_source(
            tenant=self.token.tenant, spec=self.spec(request, slug=slug), by=self.by, if_version=version
        )
        return self.shown(request, row)

    @describe(
        "delete_event_source",
        "Delete an event source; its events and dead letters stay",
        None,
        status=204,
        parameters=[IF_MATCH],
        refusals=(412,),
        tag="event-sources",
    )
    def delete(self, request: Request, slug: str) -> HttpResponse:
        bodies.check_query(request, ())
        services.delete_source(tenant=self.token.tenant, slug=slug, by=self.by, if_version=version_wanted(request))
        return HttpResponse(status=204)


class SourceEnable(SourceView):
    """Let a source be read."""

    action = Action.STEER

    @describe(
        "enable_event_source", "Let an event source be read again", SourceDetailAnswer, call=ReasonCall,
        parameters=[IF_MATCH], refusals=(412, 413), tag="event-sources",
    )  # fmt: skip
    def post(self, request: Request, slug: str) -> HttpResponse:
        return self.switch(request, slug, enabled=True)

    def switch(self, request: Request, slug: str, *, enabled: bool) -> HttpResponse:
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        row = services.switch_source(
            tenant=self.token.tenant,
            slug=slug,
            enabled=enabled,
            by=self.by,
            reason=reason,
            if_version=version_wanted(request),
        )
        return self.shown(request, row)


class SourceDisable(SourceEnable):
    """Let a source be read no longer; a webhook then answers 410."""

    @describe(
        "disable_event_source", "Let an event source be read no longer", SourceDetailAnswer, call=ReasonCall,
        parameters=[IF_MATCH], refusals=(412, 413), tag="event-sources",
    )  # fmt: skip
    def post(self, request: Request, slug: str) -> HttpResponse:
        return self.switch(request, slug, enabled=False)
