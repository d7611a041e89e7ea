"""Events: what came, which rules fired on it, which did not, and what was started."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from orchestrator.admin.filters import Chosen, period, typed, words_filter
from orchestrator.admin.lists import LooksAtTheNewest, is_list, numbers_in
from orchestrator.admin.mixins import (
    LedgerAdmin,
    Steers,
    TenantFilter,
    as_json,
    clipped,
    link,
    list_link,
    moment,
    state_word,
)
from triggers.admin.parts import COLOURS, lines, page_link, place_of, run_link
from triggers.models import Event, Firing, TriggerRule
from triggers.models.events import EVENT_STATES
from triggers.selectors.events import NotFired, ShownEvent, event_of
from triggers.services.replays import start_replay

#: Firings of one event that its page shows; the list of firings has the rest.
SHOWN = 100


@admin.register(Event)
class EventAdmin(Steers, LooksAtTheNewest, LedgerAdmin):
    unindexed = ("state", "event_type", "event_source__id__exact")
    steering_permission = "triggers.add_replay"
    actions: Any = ("replay",)
    list_display = (
        "number", "received", "event_type_shown", "source_shown", "message_id_shown", "channel_shown", "state_label",
        "firings_count",
    )  # fmt: skip
    list_display_links = ("number",)
    list_filter = (
        words_filter("state", "state", EVENT_STATES),
        typed("event_type", paths=("event_type",), shown_as="type", help_text="Its whole name"),
        ("event_source", Chosen),
        TenantFilter,
        # By the days of the table, not by its ids: each look at them would ask every day.
        period("received", path="received_at", shown_as="receipt", key=""),
    )
    list_filter_submit = True
    empty_says = "Each message that an event source takes from outside is shown here, and each that is sent to `POST /api/v1/events`. Add an event source, or send one."
    search_fields = ("message_id",)
    search_help_text = "Whole message id or event type, or the number of an event"
    fields = (
        ("received", "state_label"),
        ("event_type", "message_id"),
        ("source", "destination"),
        ("event_time_shown", "priority"),
        ("channel", "event_source_link"),
        ("place", "ordering_key"),
        ("depth", "trace_id"),
        "firings_shown",
        "not_fired_shown",
        "payload_shown",
        "metadata_shown",
        "headers_shown",
    )
    readonly_fields = (
        "received", "state_label", "event_time_shown", "event_source_link", "place", "firings_shown", "not_fired_shown",
        "payload_shown", "metadata_shown", "headers_shown",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        rows = super().get_queryset(request)
        if not is_list(request):
            return rows
        firings = Firing.objects.filter(event_id=OuterRef("pk")).order_by().values("event_id")
        counted = firings.annotate(count=Count("*")).values("count")
        return rows.defer("payload", "metadata", "headers").annotate(
            firings=Coalesce(Subquery(counted, output_field=IntegerField()), 0)
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        # Whole values alone: each has its index, and a part of one would read every event there is.
        if not search_term.strip():
            return queryset, False
        term = search_term.strip()
        chosen = Q(message_id=term) | Q(event_type=term) | Q(pk__in=numbers_in(term))
        return queryset.filter(chosen), False

    # --- columns

    @admin.display(description="Event")
    def number(self, row: Event) -> str:
        return f"#{row.pk}"

    @admin.display(description="Received")
    def received(self, row: Event) -> str:
        return moment(row.received_at)

    @admin.display(description="Type")
    def event_type_shown(self, row: Event) -> str:
        return clipped(row.event_type, rem=8)

    @admin.display(description="Source")
    def source_shown(self, row: Event) -> str:
        return clipped(row.source, rem=8)

    @admin.display(description="Message id")
    def message_id_shown(self, row: Event) -> str:
        return clipped(row.message_id)

    @admin.display(description="Channel")
    def channel_shown(self, row: Event) -> str:
        return clipped(row.channel, rem=8)

    @display(description="State", label=COLOURS)
    def state_label(self, row: Event) -> str:
        return state_word(row.state)

    @admin.display(description="Firings")
    def firings_count(self, row: Any) -> str:
        return list_link(Firing, str(row.firings), event_id__exact=row.pk) if row.firings else "–"

    # --- the page of one

    @admin.display(description="Event's own time")
    def event_time_shown(self, row: Event) -> str:
        return moment(row.event_time)

    @admin.display(description="Place")
    def place(self, row: Event) -> str:
        return place_of(row.part, row.off)

    @admin.display(description="Event source")
    def event_source_link(self, row: Event) -> str:
        return link(row.event_source) if row.event_source_id else "– (the API)"

    @admin.display(description="Rules that fired, or could not be evaluated")
    def firings_shown(self, row: Event) -> SafeString | str:
        shown = lines(
            (
                (
                    link(each.firing, each.firing.outcome),
                    link(TriggerRule(pk=each.firing.rule_id), each.rule or f"rule {each.firing.rule_id}"),
                    f"v{each.firing.rule_version}",
                    each.firing.reason,
                    run_link(each.firing.job_run_id) if each.firing.job_run_id else "",
                )
                for each in self._shown(row).firings[:SHOWN]
            ),
            "{} {} {} {} {}",
            "none",
        )
        return format_html("{}{}", shown, list_link(Firing, "All firings", event_id__exact=row.pk))

    @admin.display(description="Rules whose condition was false")
    def not_fired_shown(self, row: Event) -> SafeString | str:
        return lines((self._not_fired(row, each) for each in self._shown(row).not_fired[:SHOWN]), "{} v{} · {}", "none")

    @admin.display(description="Payload")
    def payload_shown(self, row: Event) -> str:
        return as_json(row.payload)

    @admin.display(description="Metadata")
    def metadata_shown(self, row: Event) -> str:
        return as_json(row.metadata)

    @admin.display(description="Headers")
    def headers_shown(self, row: Event) -> str:
        return as_json(row.headers)

    def _shown(self, row: Any) -> ShownEvent:
        # Read once for a page; the row lives no longer than it.
        if not hasattr(row, "shown"):
            row.shown = event_of(row.tenant_id, row.pk)
        shown: ShownEvent = row.shown
        return shown

    def _not_fired(self, row: Event, each: NotFired) -> tuple[Any, ...]:
        why = page_link("triggers_triggerrule_test", "why", each.rule_id, event=row.pk)
        return link(TriggerRule(pk=each.rule_id), each.rule), each.version, why

    # --- actions

    @admin.action(description="Give the chosen events to the rules again", permissions=["operate"])
    def replay(self, request: HttpRequest, chosen: QuerySet[Event]) -> HttpResponse | None:
        def ask(row: Event, by: str, reason: str) -> SafeString:
            made, _ = start_replay(tenant=row.tenant, selection={"events": [row.pk]}, rules=(), dry_run=False, by=by)
            return format_html("replay {}", link(made, f"#{made.pk}"))

        return self.steer(
            request, chosen.select_related("tenant").order_by("pk"), ask, action="replay",
            question="Give these events to the rules again?",
            consequence="Today's rules decide, as if the events came now; each that fires starts a new run.",
            named=lambda row: f"event #{row.pk} {row.event_type} {row.message_id}",
        )  # fmt: skip
