"""Replays: stored events, or dead letters, given to the rules of today once more."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from orchestrator.api.bases import (
    CURSOR,
    TenantWideView,
    answer,
    base_url,
    bodies,
    choices,
    describe,
    example,
    limit,
    number_cursor,
    page,
    page_answer,
    query,
)
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.roles import Action
from triggers.api.filters import EVENT_FILTERS
from triggers.api.serializers.events import ReplayAnswer, ReplayCall, replay_answer
from triggers.selectors import replays as selectors
from triggers.selectors.events import event_filter
from triggers.services import replays as services
from triggers.services.replays import STATES

KEY: Final = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="The same key of the same token is the same replay, however often it is sent.",
)
_IDS: Final = f"a list of 1 to {services.MOST_IDS} ids"
_BODY: Final = {
    "events": bodies.Field(_IDS, lambda value: _is_ids(value)),
    "filter": bodies.Field(
        "an object with at least one of " + ", ".join(EVENT_FILTERS),
        lambda value: isinstance(value, dict) and bool(value),
    ),
    "from": bodies.moment(),
    "to": bodies.moment(),
    "dead_letters": bodies.Field(_IDS, lambda value: _is_ids(value)),
    "rules": bodies.texts("a list of ids of rules", longest=200),
    "dry_run": bodies.Field("true or false", lambda value: isinstance(value, bool), default=False),
}


class ReplayList(TenantWideView):
    """Replays, newest first."""

    actions = {"POST": Action.STEER}

    @describe(
        "list_replays",
        "List replays, newest first",
        page(ReplayAnswer, "ReplayPage"),
        parameters=[query("state", "One of " + ", ".join(STATES) + ", or several."), limit(50, 200), CURSOR],
        tag="replays",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("state", "limit", "cursor"))
        found = selectors.replays_of(
            self.tenant_id,
            states=choices(asked.get("state"), "state", STATES),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: replay_answer(row, base))

    @describe(
        "create_replay",
        "Give events or dead letters to the rules once more, or say what that would do",
        ReplayAnswer,
        status=201,
        also=(200,),
        call=ReplayCall,
        parameters=[KEY],
        refusals=(413, 422),
        examples=[
            example("one event", {"events": [8012], "rules": ["order-created-trigger"]}),
            example("what would happen", {"filter": {"type": "order.*", "state": "no_match"}, "dry_run": True}),
            example("an hour", {"from": "2027-01-31T06:00:00Z", "to": "2027-01-31T07:00:00Z"}),
            example("dead letters", {"dead_letters": [17]}),
        ],
        tag="replays",
    )
    def post(self, request: Request) -> HttpResponse:
        bodies.check_query(request, ())
        asked = bodies.read_body(request, _BODY)
        replay, created = services.start_replay(
            tenant=self.token.tenant,
            selection=_selection(asked),
            rules=asked["rules"],
            dry_run=asked["dry_run"],
            by=self.by,
            key=request.headers.get("Idempotency-Key"),
        )
        answered = answer(replay_answer(replay, base_url(request)), status=201 if created else 200)
        answered["Location"] = f"{base_url(request)}/api/v1/replays/{replay.pk}"
        return answered


class ReplayDetail(TenantWideView):
    """One replay and how far it is."""

    @describe("get_replay", "Read a replay", ReplayAnswer, tag="replays")
    def get(self, request: Request, replay_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(replay_answer(selectors.replay_of(self.tenant_id, replay_id), base_url(request)))


def _selection(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the one selection of the body, checked; raises InvalidRequest."""
    given = {name: asked[name] for name in ("events", "filter", "dead_letters") if asked[name] is not None}
    span = {name: asked[name] for name in ("from", "to") if asked[name] is not None}
    if len(given) + bool(span) != 1:
        raise InvalidRequest(
            "The body has problems.",
            details=(
                Detail("", ", ".join([*given, *span]) or None, "one of events, filter, from and to, dead_letters"),
            ),
        )
    if span:
        return span
    if "filter" in given:
        if unknown := [key for key in given["filter"] if key not in EVENT_FILTERS]:
            raise InvalidRequest(
                "The body has problems.",
                details=tuple(
                    Detail(
                        f"filter.{key}"[:200],
                        bodies.quoted(given["filter"][key]),
                        "no such filter; known: " + ", ".join(EVENT_FILTERS),
                    )
                    for key in unknown
                ),
            )
        event_filter(given["filter"], within="filter.")
    return given


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= services.MOST_IDS
        and all(isinstance(one, int) and not isinstance(one, bool) and 0 < one < 10**18 for one in value)
    )
