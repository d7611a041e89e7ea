"""Events, firings and dead letters: what came, what rules made of it, what could not be used."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request

from orchestrator.api.bases import (
    CURSOR,
    ReasonCall,
    TenantWideView,
    answer,
    answer_error,
    base_url,
    bodies,
    choices,
    describe,
    limit,
    number_cursor,
    page,
    page_answer,
    query,
)
from orchestrator.roles import Action
from triggers.api.filters import EVENT_FILTERS
from triggers.api.serializers.events import (
    DeadLetterAnswer,
    EventAnswer,
    EventDetailAnswer,
    FiringAnswer,
    dead_letter_answer,
    event_answer,
    event_detail_answer,
    firing_answer,
)
from triggers.api.views.events_in import described, send_events
from triggers.models.events import LETTER_STATES, OUTCOMES
from triggers.selectors import dead_letters, events, firings, rules
from triggers.selectors.dead_letters import LetterFilter
from triggers.selectors.firings import FiringFilter
from triggers.services import dead_letters as letter_services


class EventList(TenantWideView):
    """Events, newest first."""

    actions = {"POST": Action.TRIGGER}

    @describe(
        "list_events",
        "Search events, newest first, with what rules made of them",
        page(EventAnswer, "EventPage"),
        parameters=[
            *EVENT_FILTERS.values(),
            query("q", "The message id, the trace id, or a text in the payload of one of the newest 10,000."),
            limit(50, 200),
            CURSOR,
        ],
        tag="events",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, (*EVENT_FILTERS, "q", "limit", "cursor"))
        found = events.events_of(
            self.tenant_id,
            events.event_filter(asked, search=asked.get("q")),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: event_answer(row, base))

    @described
    def post(self, request: Request) -> HttpResponse:
        return send_events(request._request)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return super().dispatch(request, *args, **kwargs)
        # Around the framework's machinery, as trigger calls go.
        try:
            return send_events(request)
        except Exception as error:
            return answer_error(error)


class EventDetail(TenantWideView):
    """One event, the rules that saw it and the runs that it started."""

    @describe("get_event", "Read an event, its firings and the runs that it started", EventDetailAnswer, tag="events")
    def get(self, request: Request, event_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        shown = events.event_of(self.tenant_id, event_id)
        runs = firings.runs_of_event(self.tenant_id, event_id)
        return answer(event_detail_answer(shown, runs, base_url(request)))


class FiringList(TenantWideView):
    """What became of rules on events, newest first."""

    @describe(
        "list_firings",
        "List firings, newest first",
        page(FiringAnswer, "FiringPage"),
        parameters=[
            query("rule", "Id of a rule, or the number of one, also of one that was deleted."),
            query("event", "Id of an event.", OpenApiTypes.INT),
            query("run", "Id of a run.", OpenApiTypes.INT),
            query("replay", "Id of a replay; 0: those of no replay.", OpenApiTypes.INT),
            query("outcome", "One of " + ", ".join(OUTCOMES) + ", or several."),
            limit(50, 200),
            CURSOR,
        ],
        tag="events",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("rule", "event", "run", "replay", "outcome", "limit", "cursor"))
        rule = asked.get("rule")

        def number(key: str) -> int | None:
            return bodies.whole_number(asked, key, default=0, least=0, most=10**18 - 1) if key in asked else None

        found = firings.firings_of(
            self.tenant_id,
            FiringFilter(
                rule_ids=None if rule is None else tuple(rules.rule_numbers(self.tenant_id, rule)),
                event_id=number("event"),
                run_id=number("run"),
                replay_no=number("replay"),
                outcomes=choices(asked.get("outcome"), "outcome", OUTCOMES),
            ),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: firing_answer(row, base))


class FiringDetail(TenantWideView):
    """One firing."""

    @describe("get_firing", "Read a firing", FiringAnswer, tag="events")
    def get(self, request: Request, firing_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(firing_answer(firings.firing_of(self.tenant_id, firing_id), base_url(request)))


class DeadLetterList(TenantWideView):
    """Messages that could not be used, newest first."""

    @describe(
        "list_dead_letters",
        "List dead letters, newest first",
        page(DeadLetterAnswer, "DeadLetterPage"),
        parameters=[
            query("state", "One of " + ", ".join(LETTER_STATES) + ", or several."),
            query("reason", "Such as malformed, conflict or refused:unknown_job."),
            query("source", "Name of an event source."),
            query("channel", "Such as kafka:business-events."),
            limit(50, 200),
            CURSOR,
        ],
        tag="dead-letters",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("state", "reason", "source", "channel", "limit", "cursor"))
        found = dead_letters.letters_of(
            self.tenant_id,
            LetterFilter(
                states=choices(asked.get("state"), "state", LETTER_STATES),
                reason=asked.get("reason"),
                source=asked.get("source"),
                channel=asked.get("channel"),
            ),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: dead_letter_answer(row, base))


class DeadLetterDetail(TenantWideView):
    """One dead letter, with all of its bytes."""

    @describe("get_dead_letter", "Read a dead letter", DeadLetterAnswer, tag="dead-letters")
    def get(self, request: Request, letter_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(dead_letter_answer(dead_letters.letter_of(self.tenant_id, letter_id), base_url(request)))


class DeadLetterDiscard(TenantWideView):
    """Put a dead letter aside."""

    action = Action.STEER

    @describe(
        "discard_dead_letter", "Put a dead letter aside; its bytes stay", DeadLetterAnswer, call=ReasonCall,
        refusals=(409, 413), tag="dead-letters",
    )  # fmt: skip
    def post(self, request: Request, letter_id: int) -> HttpResponse:
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        letter_services.discard_letter(tenant_id=self.tenant_id, letter_id=letter_id, by=self.by, reason=reason)
        return answer(dead_letter_answer(dead_letters.letter_of(self.tenant_id, letter_id), base_url(request)))
