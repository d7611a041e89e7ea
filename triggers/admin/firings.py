"""Firings: what a rule made of an event, why, and what became of it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from orchestrator.admin.filters import Typed, period, words_filter
from orchestrator.admin.lists import LooksAtTheNewest, numbers_in
from orchestrator.admin.mixins import LedgerAdmin, TenantFilter, as_json, as_text, clipped, link, list_link, moment
from orchestrator.services import access
from triggers.admin.parts import COLOURS, event_link, lines, page_link, run_link
from triggers.models import Event, Firing, Replay, RuleVersion, TriggerRule
from triggers.models.events import OUTCOMES
from triggers.rules.decide import Activation
from triggers.rules.explain import explain
from triggers.rules.rule import compile_rule
from triggers.rules.spec import RuleSpec
from triggers.rules.text import rule_text

_WORDS = {True: "passed", False: "stopped", None: "error"}


class OfRule(Typed):
    """The firings of a rule by its id: of each tenant's rule that has it."""

    title = "rule"
    parameter_name = "rule"
    help_text = "Its whole id"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Firing]) -> QuerySet[Firing]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        return queryset.filter(rule_id__in=list(TriggerRule.objects.filter(slug=value).values_list("pk", flat=True)))


class Reason(Typed):
    """The named reason, which is the first word of what is said."""

    title = "reason"
    parameter_name = "reason"
    help_text = "Such as deduplicated"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Firing]) -> QuerySet[Firing]:
        value = (self.value() or "").strip()
        return queryset.filter(Q(reason=value) | Q(reason__startswith=f"{value}:")) if value else queryset


@admin.register(Firing)
class FiringAdmin(LooksAtTheNewest, LedgerAdmin):
    unindexed = ("outcome", "reason", "replay_no__exact")
    list_display = ("number", "created", "rule_link", "event", "outcome_label", "reason_shown", "run", "release")
    list_display_links = ("number",)
    list_filter = (
        words_filter("outcome", "outcome", OUTCOMES),
        OfRule,
        Reason,
        TenantFilter,
        period("created", path="created_at", shown_as="creation"),
    )
    list_filter_submit = True
    empty_says = "What each rule made of each event that matched it is shown here: a run, or why there is none. Add a rule, then send an event of its type."
    search_fields = ("rule_id",)
    search_help_text = "Whole id of a rule, or the number of a firing, an event or a run"
    fields = (
        ("created", "outcome_label"),
        "reason",
        ("rule_link", "version_link"),
        ("event", "run"),
        ("stage", "release", "expires"),
        ("group", "replay_link"),
        "rule_shown",
        "steps_shown",
        "event_shown",
    )
    readonly_fields = (
        "created", "outcome_label", "rule_link", "version_link", "event", "run", "release", "expires", "group",
        "replay_link", "rule_shown", "steps_shown", "event_shown",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Firing]:
        slugs = TriggerRule.objects.filter(pk=OuterRef("rule_id")).values("slug")[:1]
        rows = super().get_queryset(request).annotate(rule=Subquery(slugs))
        tenants = access.tenants_by_permission(request.user, "triggers.view_firing")
        if tenants is None:
            return rows
        # The same once more by the rules: they have an index, tenants have none here.
        return rows.filter(rule_id__in=TriggerRule.objects.filter(tenant_id__in=sorted(tenants)).values("pk"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Firing], search_term: str
    ) -> tuple[QuerySet[Firing], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        numbers = numbers_in(term)
        rules = list(TriggerRule.objects.filter(slug=term).values_list("pk", flat=True))
        chosen = Q(rule_id__in=rules) | Q(pk__in=numbers) | Q(event_id__in=numbers) | Q(job_run_id__in=numbers)
        return queryset.filter(chosen), False

    # --- columns

    @admin.display(description="Firing")
    def number(self, row: Firing) -> str:
        return f"#{row.pk}"

    @admin.display(description="Created")
    def created(self, row: Firing) -> str:
        return moment(row.created_at)

    @admin.display(description="Rule")
    def rule_link(self, row: Any) -> str:
        shown = link(TriggerRule(pk=row.rule_id), row.rule) if row.rule else f"rule {row.rule_id} (gone)"
        return format_html("{} v{}", shown, row.rule_version)

    @admin.display(description="Event")
    def event(self, row: Firing) -> str:
        return event_link(row.event_id)

    @display(description="Outcome", label=COLOURS)
    def outcome_label(self, row: Firing) -> str:
        return row.outcome

    @admin.display(description="Reason")
    def reason_shown(self, row: Firing) -> str:
        return clipped(row.reason)

    @admin.display(description="Run")
    def run(self, row: Firing) -> str:
        return run_link(row.job_run_id)

    @admin.display(description="Held until")
    def release(self, row: Firing) -> str:
        return moment(row.release_at)

    # --- the page of one

    @admin.display(description="Expires")
    def expires(self, row: Firing) -> str:
        return moment(row.expires_at)

    @admin.display(description="Version")
    def version_link(self, row: Firing) -> str:
        version = _version_of(row)
        return link(version, f"v{version.number}") if version else f"v{row.rule_version}"

    @admin.display(description="Group")
    def group(self, row: Firing) -> str:
        if row.key_hash is None or row.stage not in ("debounce", "batch"):
            return "–"
        members = {"rule_id__exact": row.rule_id, "key_hash__exact": row.key_hash, "generation__exact": row.generation}
        return list_link(Firing, "Show its firings", **members)

    @admin.display(description="Replay")
    def replay_link(self, row: Firing) -> str:
        return link(Replay(pk=row.replay_no), f"#{row.replay_no}") if row.replay_no else "–"

    @admin.display(description="The rule as it was")
    def rule_shown(self, row: Firing) -> SafeString | str:
        version = _version_of(row)
        return as_text(rule_text(RuleSpec.from_canonical(version.spec))) if version else "– (gone)"

    @admin.display(description="Step by step, without what its stages remembered")
    def steps_shown(self, row: Firing) -> SafeString | str:
        version, event = _version_of(row), _event_of(row)
        if version is None or event is None:
            return "– (rule or event is gone)"
        rule = compile_rule(
            rule_id=row.rule_id,
            version_id=version.pk,
            number=version.number,
            tenant_id=row.tenant_id,
            spec=RuleSpec.from_canonical(version.spec),
        )
        from triggers.ingest.stored import envelope_of  # with all of ingest, which few processes need

        activation = Activation(envelope_of(event), event.channel, event.headers, event.ordering_key, event.received_at)
        told = explain(rule, activation)
        shown = lines(((step.name, _WORDS[step.passed], step.detail) for step in told.steps), "{}: {} · {}")
        again = page_link("triggers_triggerrule_test", "Try today's rule on the event", row.rule_id, event=event.pk)
        return format_html("{}{}", shown, again)

    @admin.display(description="The event's payload")
    def event_shown(self, row: Firing) -> str:
        event = _event_of(row)
        return as_json(event.payload) if event else "– (its day is no longer kept)"


def _version_of(row: Any) -> RuleVersion | None:
    # Read once for a page; the row lives no longer than it.
    if not hasattr(row, "version_found"):
        row.version_found = RuleVersion.objects.filter(rule_id=row.rule_id, number=row.rule_version).first()
    found: RuleVersion | None = row.version_found
    return found


def _event_of(row: Any) -> Event | None:
    if not hasattr(row, "event_found"):
        row.event_found = Event.objects.filter(pk=row.event_id).first()
    found: Event | None = row.event_found
    return found
