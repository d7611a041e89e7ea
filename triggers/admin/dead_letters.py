"""Dead letters: the bytes as they came, why they could not be used, and what to do with them; and replays."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from orchestrator.admin.filters import Chosen, period, words_filter
from orchestrator.admin.lists import LooksAtTheNewest, is_list, numbers_in
from orchestrator.admin.mixins import (
    LedgerAdmin,
    Steers,
    TenantFilter,
    as_json,
    as_text,
    clipped,
    link,
    list_link,
    moment,
)
from triggers.admin.parts import COLOURS, event_link, place_of
from triggers.models import DeadLetter, Firing, Replay
from triggers.models.events import LETTER_STATES
from triggers.services.dead_letters import discard_letter
from triggers.services.replays import STATES, start_replay

#: Bytes of a message that a page shows; the API gives all of them.
SHOWN = 16 * 1024
HEX_SHOWN = 1024
#: What the ingest calls them; `refused:<code>` of trigger calls beside.
REASONS = (
    "malformed", "not_object", "too_large", "no_id", "reserved_source", "source_not_allowed", "bad_field",
    "unknown_tenant", "conflict", "db_rejected", "crash_loop", "loop",
)  # fmt: skip


@admin.register(DeadLetter)
class DeadLetterAdmin(Steers, LooksAtTheNewest, LedgerAdmin):
    unindexed = ("reason", "event_source__id__exact", "seen", "seen_from", "seen_to")
    steering_permission = "triggers.change_deadletter"
    actions: Any = ("replay", "discard")
    list_display = (
        "number", "last", "reason_label", "channel_shown", "message_id_shown", "error_shown", "tries", "state_label",
    )  # fmt: skip
    list_display_links = ("number",)
    list_filter = (
        words_filter("state", "state", LETTER_STATES),
        words_filter("reason", "reason", REASONS),
        ("event_source", Chosen),
        TenantFilter,
        period("seen", path="first_seen", shown_as="first sight"),
    )
    list_filter_submit = True
    empty_says = "Messages that could not be used are kept here with their bytes and the reason, to be corrected and read again. That there are none is good news."
    search_fields = ("message_id",)
    search_help_text = "Whole message id, or the number of a dead letter"
    fields = (
        ("reason_label", "state_label"),
        "error_text",
        ("channel", "event_source_link"),
        ("place", "message_id"),
        ("first", "last"),
        ("tries", "event"),
        ("resolved", "resolved_by"),
        "raw_text",
        "raw_hex",
        "headers_shown",
    )
    readonly_fields = (
        "reason_label", "state_label", "error_text", "event_source_link", "place", "first", "last", "resolved", "event",
        "raw_text", "raw_hex", "headers_shown",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        rows = super().get_queryset(request).select_related("event_source")
        return rows.defer("raw", "headers") if is_list(request) else rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter], search_term: str
    ) -> tuple[QuerySet[DeadLetter], bool]:
        term = search_term.strip()
        return (queryset.filter(Q(message_id=term) | Q(pk__in=numbers_in(term))) if term else queryset), False

    # --- columns

    @admin.display(description="Letter")
    def number(self, row: DeadLetter) -> str:
        return f"#{row.pk}"

    @admin.display(description="Last seen")
    def last(self, row: DeadLetter) -> str:
        return moment(row.last_seen)

    @admin.display(description="Reason")
    def reason_label(self, row: DeadLetter) -> str:
        return row.reason

    @admin.display(description="Channel")
    def channel_shown(self, row: DeadLetter) -> str:
        return clipped(row.channel, rem=8)

    @admin.display(description="Message id")
    def message_id_shown(self, row: DeadLetter) -> str:
        return clipped(row.message_id, rem=8)

    @admin.display(description="What is wrong")
    def error_shown(self, row: DeadLetter) -> str:
        return clipped(_printable(row.error))

    @display(description="State", label=COLOURS)
    def state_label(self, row: DeadLetter) -> str:
        return row.state

    # --- the page of one

    @admin.display(description="What is wrong")
    def error_text(self, row: DeadLetter) -> str:
        return as_text(_printable(row.error))

    @admin.display(description="Place")
    def place(self, row: DeadLetter) -> str:
        return place_of(row.part, row.off)

    @admin.display(description="Event source")
    def event_source_link(self, row: DeadLetter) -> str:
        return link(row.event_source) if row.event_source_id else "– (the API, or one that was deleted)"

    @admin.display(description="First seen")
    def first(self, row: DeadLetter) -> str:
        return moment(row.first_seen)

    @admin.display(description="Resolved")
    def resolved(self, row: DeadLetter) -> str:
        return moment(row.resolved_at)

    @admin.display(description="Became event")
    def event(self, row: DeadLetter) -> str:
        return event_link(row.event_id)

    @admin.display(description="The message as text")
    def raw_text(self, row: DeadLetter) -> SafeString:
        return as_text(_as_text(bytes(row.raw)))

    @admin.display(description="Its first bytes")
    def raw_hex(self, row: DeadLetter) -> SafeString:
        return format_html(
            '<details><summary class="cursor-pointer">Show</summary><pre class="text-xs" style="overflow-x:auto">{}</pre></details>',
            _hex_dump(bytes(row.raw)[:HEX_SHOWN]),
        )

    @admin.display(description="Headers")
    def headers_shown(self, row: DeadLetter) -> str:
        return as_json(row.headers)

    # --- actions

    @admin.action(description="Discard the chosen letters", permissions=["operate"])
    def discard(self, request: HttpRequest, chosen: QuerySet[DeadLetter]) -> HttpResponse | None:
        def ask(row: DeadLetter, by: str, reason: str) -> str:
            return discard_letter(tenant_id=row.tenant_id, letter_id=row.pk, by=by, reason=reason).state

        return self.steer(
            request, chosen.order_by("pk"), ask, action="discard", question="Discard these dead letters?",
            consequence="They are put aside for good; their bytes stay to be looked at.", named=_named,
        )  # fmt: skip

    @admin.action(description="Read the chosen letters again", permissions=["operate"])
    def replay(self, request: HttpRequest, chosen: QuerySet[DeadLetter]) -> HttpResponse | None:
        def ask(row: DeadLetter, by: str, reason: str) -> SafeString:
            made, _ = start_replay(
                tenant=row.tenant, selection={"dead_letters": [row.pk]}, rules=(), dry_run=False, by=by
            )
            return format_html("replay {}", link(made, f"#{made.pk}"))

        return self.steer(
            request, chosen.select_related("tenant").order_by("pk"), ask, action="replay",
            question="Read these dead letters again?",
            consequence="Each is read as if it came now: it becomes an event, or stays a dead letter with its reason.",
            named=_named,
        )  # fmt: skip


@admin.register(Replay)
class ReplayAdmin(LedgerAdmin):
    list_display = ("number", "created", "by", "what", "dry", "state_label", "counts_shown", "ended")
    list_display_links = ("number",)
    list_filter = (words_filter("state", "state", STATES), TenantFilter)
    empty_says = "Events that were given to the rules once more are shown here. Choose events or dead letters in their lists, then the action beside them."
    search_fields = ("pk",)
    search_help_text = "Number of a replay"
    fields = (
        ("created", "ended"),
        ("by", "state_label"),
        "reason",
        ("dry", "idempotency_key"),
        "selection_shown",
        "rules_shown",
        "counts_json",
        "samples_shown",
        "firings",
    )
    readonly_fields = (
        "created", "ended", "dry", "state_label", "selection_shown", "rules_shown", "counts_json", "samples_shown", "firings",
    )  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Replay], search_term: str
    ) -> tuple[QuerySet[Replay], bool]:
        return (queryset.filter(pk__in=numbers_in(search_term)) if search_term.strip() else queryset), False

    @admin.display(description="Replay")
    def number(self, row: Replay) -> str:
        return f"#{row.pk}"

    @admin.display(description="Created")
    def created(self, row: Replay) -> str:
        return moment(row.created_at)

    @admin.display(description="Of")
    def what(self, row: Replay) -> str:
        for kind, words in (("events", "event"), ("dead_letters", "dead letter")):
            if kind in row.selection:
                count = len(row.selection[kind])
                return f"{count:,} {words}{'s' if count != 1 else ''}"
        return "events by filter" if "filter" in row.selection else "events of a time"

    @admin.display(description="Dry run")
    def dry(self, row: Replay) -> str:
        return "dry run" if row.dry_run else "–"

    @display(description="State", label=COLOURS)
    def state_label(self, row: Replay) -> str:
        return row.state

    @admin.display(description="Outcomes")
    def counts_shown(self, row: Replay) -> str:
        return clipped(", ".join(f"{word} {count:,}" for word, count in row.counts.items()))

    @admin.display(description="Ended")
    def ended(self, row: Replay) -> str:
        return moment(row.ended_at)

    @admin.display(description="Of")
    def selection_shown(self, row: Replay) -> str:
        return as_json(row.selection)

    @admin.display(description="Rules")
    def rules_shown(self, row: Replay) -> str:
        return ", ".join(row.rules) or "all that are enabled"

    @admin.display(description="Outcomes")
    def counts_json(self, row: Replay) -> str:
        return as_json(row.counts)

    @admin.display(description="First of what a dry run would do")
    def samples_shown(self, row: Replay) -> str:
        return as_json(row.samples) if row.samples else "–"

    @admin.display(description="Firings")
    def firings(self, row: Replay) -> str:
        return list_link(Firing, "Show", replay_no__exact=row.pk)


def _named(row: DeadLetter) -> str:
    return f"dead letter #{row.pk} {row.reason}"


def _as_text(raw: bytes) -> str:
    """Return a message as text; what is no UTF-8, and what would steer a terminal, as escapes."""
    shown = _printable(raw[:SHOWN].decode(errors="backslashreplace"))
    return shown if len(raw) <= SHOWN else f"{shown}\n… {len(raw):,} bytes in all"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\u{ord(char):04x}" for char in text)


def _hex_dump(raw: bytes) -> str:
    """Return 16 bytes a line: offset, hex, what is readable."""
    return "\n".join(
        f"{at:06x}  {raw[at : at + 16].hex(' '):<47}  "
        + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in raw[at : at + 16])
        for at in range(0, len(raw), 16)
    )
