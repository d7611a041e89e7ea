"""Trigger rules: typed as YAML with all problems beside them, tried on an event before they are trusted."""

from __future__ import annotations

import json
from typing import Any

import orjson
from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from orchestrator.admin.mixins import (
    LedgerAdmin,
    Steers,
    TenantFilter,
    as_text,
    by_person,
    clipped,
    link,
    list_link,
    moment,
    roomy,
)
from orchestrator.errors import UpbeatError
from orchestrator.models import Job, JobRun, Transition
from triggers.admin.parts import COLOURS, page_link, refusal
from triggers.models import Event, Firing, RuleVersion, TriggerRule
from triggers.rules.spec import RuleSpec
from triggers.rules.text import read_rule_text, rule_text
from triggers.services.rule_tests import try_rule
from triggers.services.rule_warnings import warnings_of
from triggers.services.rules import (
    create_rule,
    delete_rule,
    disable_rule,
    enable_rule,
    replace_rule,
    roll_back_rule,
    spec_of_rule,
)

_MONO = {"rows": 14, "style": "font-family: monospace", "spellcheck": "false"}
NEW_RULE = """\
ruleId: order-created
eventType: order.created
condition: payload.amount > 1000
taskName: name-of-a-job
parameters:
  order_id: ${payload.orderId}
"""
SAMPLE_EVENT = {
    "messageId": "msg-1",
    "eventType": "order.created",
    "timestamp": "2027-01-31T06:00:00Z",
    "source": "order-service",
    "payload": {"orderId": "order-12345", "amount": 1500},
    "metadata": {"traceId": "trace-1"},
}


class RuleForm(forms.ModelForm):
    definition = forms.CharField(
        widget=UnfoldAdminTextareaWidget(attrs=_MONO),
        help_text="YAML or JSON, as in a taskTriggerRules file.",
    )
    comment = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Why; it is kept with the version"}),
    )
    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    request: HttpRequest
    stored: TriggerRule | None = None

    class Meta:
        model = TriggerRule
        fields = ("tenant",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["definition"] = rule_text(spec_of_rule(self.instance))
            self.initial["seen_version"] = self.instance.version
        else:
            self.initial.setdefault("definition", NEW_RULE)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        spec = read_rule_text(cleaned["definition"])
        if not isinstance(spec, RuleSpec):
            self.add_error("definition", [ValidationError(str(problem)) for problem in spec])
            return cleaned
        row, by, comment = self.instance, by_person(self.request), cleaned.get("comment", "")
        if row.pk and spec.rule_id != row.slug:
            self.add_error("definition", f"ruleId: a rule keeps its id, {row.slug}; make another rule")
            return cleaned
        try:
            # Here and not when saving: what only the database knows is then said beside the text, too.
            if row.pk:
                self.stored = replace_rule(
                    tenant=row.tenant, spec=spec, by=by, comment=comment, if_version=cleaned.get("seen_version")
                )
            else:
                self.stored = create_rule(tenant=cleaned["tenant"], spec=spec, by=by, comment=comment)
        except UpbeatError as error:
            self.add_error("definition", [ValidationError(words) for words in refusal(error)])
        return cleaned

    def _post_clean(self) -> None:
        """Ask no more: the service has checked and stored it."""


class DeletedRules(admin.SimpleListFilter):
    """Leaves deleted rules out unless they are asked for: their firings still lead to them."""

    title = "deleted"
    parameter_name = "deleted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Deleted")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        yield {**first, "display": "Not deleted"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[TriggerRule]) -> QuerySet[TriggerRule]:
        return queryset.filter(deleted_at__isnull=self.value() != "yes")


@admin.register(TriggerRule)
class TriggerRuleAdmin(Steers):
    form = RuleForm
    steering_permission = "triggers.steer_triggerrule"
    actions: Any = ("enable", "disable", "delete_chosen")
    list_display = (
        "slug_shown", "tenant", "state_label", "asks_for", "condition_shown", "starts", "version_shown", "firings",
        "test_link",
    )  # fmt: skip
    list_filter = ("enabled", ("quarantined_at", admin.EmptyFieldListFilter), DeletedRules, TenantFilter)
    empty_says = "A rule says which events start which job. Add one here, or apply a file with `taskTriggerRules`."
    search_fields = ("slug", "name", "description", "=tenant__slug")
    search_help_text = "Part of an id, name or description, or the whole name of a tenant"
    list_select_related = ("tenant", "own_job")
    ordering = ("slug",)
    list_per_page = 50
    show_full_result_count = False

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(self.test_view)
        return [path("<int:rule_id>/test/", page, name="triggers_triggerrule_test"), *super().get_urls()]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"request": request})

    def get_fields(self, request: HttpRequest, obj: TriggerRule | None = None) -> Any:
        if obj is None:
            return ("tenant", "definition", "comment")
        standing: list[Any] = [("tenant", "version_shown"), ("state_label", "test_link")]
        if obj.quarantined_at:
            standing.append("quarantine_reason")
        seen = ("warnings", ("starts", "firings"), "runs", ("versions", "changes"), ("updated", "updated_by"))
        if not self.has_change_permission(request, obj):
            return (*standing, "definition_shown", *seen)
        # The text before all that is only to be looked at: what is wrong with it is then on the first screen.
        return (*standing, "definition", "comment", *seen, "seen_version")

    def get_readonly_fields(self, request: HttpRequest, obj: TriggerRule | None = None) -> Any:
        if obj is None:
            return ()
        return (
            "tenant", "version_shown", "state_label", "quarantine_reason", "warnings", "starts", "firings", "runs",
            "test_link", "versions", "changes", "updated", "updated_by", "definition_shown",
        )  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: TriggerRule | None = None) -> bool:
        return (obj is None or obj.deleted_at is None) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # By the action alone, which asks and goes through the service.
        return False

    def save_model(self, request: HttpRequest, obj: TriggerRule, form: Any, change: bool) -> None:
        obj.pk, obj.slug = form.stored.pk, form.stored.slug

    # --- columns

    @admin.display(description="Rule", ordering="slug")
    def slug_shown(self, row: TriggerRule) -> SafeString | str:
        if not row.name:
            return roomy(row.slug)
        return format_html('{}<div class="text-xs">{}</div>', roomy(row.slug), clipped(row.name))

    @display(description="State", label=COLOURS | {"deleted": "danger"})
    def state_label(self, row: TriggerRule) -> str:
        if row.deleted_at:
            return "deleted"
        return "quarantined" if row.quarantined_at else "enabled" if row.enabled else "disabled"

    @admin.display(description="Event type")
    def asks_for(self, row: TriggerRule) -> str:
        types = row.spec.get("eventType", "")
        return clipped(types if isinstance(types, str) else ", ".join(types), rem=8)

    @admin.display(description="Condition")
    def condition_shown(self, row: TriggerRule) -> str:
        condition = row.spec.get("condition")
        return clipped(condition) if condition else "always"

    @admin.display(description="Starts")
    def starts(self, row: TriggerRule) -> str:
        if row.own_job is not None:
            return link(row.own_job, row.spec.get("taskName", ""))
        name = str(row.spec.get("taskName", ""))
        return list_link(Job, name, q=name)

    @admin.display(description="Version")
    def version_shown(self, row: TriggerRule) -> str:
        return f"v{row.version}"

    @admin.display(description="Firings")
    def firings(self, row: TriggerRule) -> str:
        return list_link(Firing, "Show", rule_id__exact=row.pk)

    @admin.display(description="Runs")
    def runs(self, row: TriggerRule) -> str:
        return list_link(JobRun, "Show", by=row.slug)

    @admin.display(description="Test")
    def test_link(self, row: TriggerRule) -> str:
        return page_link("triggers_triggerrule_test", "Try it", row.pk)

    @admin.display(description="Updated", ordering="updated_at")
    def updated(self, row: TriggerRule) -> str:
        return moment(row.updated_at)

    # --- the page of one

    @admin.display(description="Definition")
    def definition_shown(self, row: TriggerRule) -> SafeString:
        return as_text(rule_text(spec_of_rule(row)))

    @admin.display(description="Looks wrong")
    def warnings(self, row: TriggerRule) -> SafeString | str:
        if row.deleted_at:
            return "–"
        found = warnings_of(row.tenant, spec_of_rule(row))
        return format_html("{}", "; ".join(found)) if found else "nothing"

    @admin.display(description="Versions")
    def versions(self, row: TriggerRule) -> str:
        return list_link(RuleVersion, "Show the versions", rule__id__exact=row.pk)

    @admin.display(description="Changes")
    def changes(self, row: TriggerRule) -> str:
        return list_link(Transition, "Show who changed it", subject__exact="rule", subject_id__exact=row.pk)

    # --- actions

    @admin.action(description="Enable the chosen rules", permissions=["operate"])
    def enable(self, request: HttpRequest, chosen: QuerySet[TriggerRule]) -> HttpResponse | None:
        return self._each(
            request, chosen, enable_rule, "enabled", action="enable", question="Enable these rules?",
            consequence="They fire on events from now on, not on earlier ones; one in quarantine leaves it.",
        )  # fmt: skip

    @admin.action(description="Disable the chosen rules", permissions=["operate"])
    def disable(self, request: HttpRequest, chosen: QuerySet[TriggerRule]) -> HttpResponse | None:
        return self._each(
            request, chosen, disable_rule, "disabled", action="disable", question="Disable these rules?",
            consequence="They fire no more; what they hold stays held. Events that come meanwhile can be replayed.",
        )  # fmt: skip

    @admin.action(description="Delete the chosen rules", permissions=["remove"])
    def delete_chosen(self, request: HttpRequest, chosen: QuerySet[TriggerRule]) -> HttpResponse | None:
        return self._each(
            request, chosen, delete_rule, "deleted", action="delete_chosen", question="Delete these rules?",
            consequence="What they hold is suppressed, their pending runs are cancelled; their history stays.",
        )  # fmt: skip

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self.allows(request, "delete")

    def _each(
        self, request: HttpRequest, chosen: QuerySet[TriggerRule], command: Any, done: str, **page: Any
    ) -> HttpResponse | None:
        def ask(row: TriggerRule, by: str, reason: str) -> str:
            command(tenant=row.tenant, slug=row.slug, by=by, reason=reason)
            return done

        rows = chosen.filter(deleted_at=None).select_related("tenant").order_by("slug")
        needed = "triggers.delete_triggerrule" if command is delete_rule else ""
        return self.steer(request, rows, ask, named=lambda row: row.slug, permission=needed, **page)

    # --- the test box

    def test_view(self, request: HttpRequest, rule_id: int) -> HttpResponse:
        """Show what the rule, as it is or as it is typed here, would do with an event. Stores nothing."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = get_object_or_404(self.get_queryset(request).select_related("tenant"), pk=rule_id)
        definition = request.POST.get("definition") or rule_text(spec_of_rule(row))
        event, channel = _event_asked(request, row)
        answer, problems = (None, []) if request.method != "POST" else _tried(row, definition, event, channel)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Try {row.slug}",
            "opts": self.opts,
            "rule": row,
            "rule_link": link(row),
            "definition": definition,
            "event": event,
            "channel": channel,
            "answer": answer,
            "parameters": json.dumps(answer["parameters"], indent=2, ensure_ascii=False) if answer else "",
            "problems": problems,
        }
        return render(request, "triggers/test_rule.html", context)


def _event_asked(request: HttpRequest, row: TriggerRule) -> tuple[str, str]:
    """Return the event as it is typed, or the stored one that is asked for, or one to begin with."""
    if request.method == "POST":
        return request.POST.get("event", ""), request.POST.get("channel", "").strip()[:300] or "api"
    asked = request.GET.get("event", "")
    stored = (
        Event.objects.filter(pk=int(asked), tenant=row.tenant).first()
        if asked.isdecimal() and len(asked) < 19
        else None
    )
    if stored is not None and request.user.has_perm("triggers.view_event", stored):
        form = {
            "messageId": stored.message_id,
            "eventType": stored.event_type,
            "timestamp": stored.event_time.isoformat(),
            "source": stored.source,
            "payload": stored.payload,
            "metadata": stored.metadata,
            **({"destination": stored.destination} if stored.destination else {}),
            **({"priority": stored.priority} if stored.priority else {}),
        }
        return json.dumps(form, indent=2, ensure_ascii=False), stored.channel
    types = row.spec.get("eventType", "")
    first = types if isinstance(types, str) else types[0]
    sample = {**SAMPLE_EVENT, "eventType": first.replace("*", "created").replace("#", "created")}
    return json.dumps(sample, indent=2, ensure_ascii=False), "api"


def _tried(row: TriggerRule, definition: str, event: str, channel: str) -> tuple[dict[str, Any] | None, list[str]]:
    spec = read_rule_text(definition)
    if not isinstance(spec, RuleSpec):
        return None, [str(problem) for problem in spec]
    try:
        form = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        return None, [f"event: not JSON: {error}"]
    if not isinstance(form, dict):
        return None, ["event: an event is a JSON object"]
    try:
        return try_rule(tenant=row.tenant, rule=spec, event=form, channel=channel), []
    except UpbeatError as error:
        return None, refusal(error)


@admin.register(RuleVersion)
class RuleVersionAdmin(Steers, LedgerAdmin):
    steering_permission = "triggers.change_triggerrule"
    actions: Any = ("roll_back",)
    list_display = ("version", "rule_link", "comment_shown", "author", "created")
    list_display_links = ("version",)
    search_fields = ("=rule__slug",)
    search_help_text = "Whole id of a rule"
    list_select_related = ("rule__tenant",)
    fields = (("rule_link", "version"), ("author", "created"), "comment", "definition_shown")
    readonly_fields = ("rule_link", "version", "created", "definition_shown")

    @admin.display(description="Version")
    def version(self, row: RuleVersion) -> str:
        return f"v{row.number}"

    @admin.display(description="Rule")
    def rule_link(self, row: RuleVersion) -> str:
        return link(row.rule)

    @admin.display(description="Comment")
    def comment_shown(self, row: RuleVersion) -> str:
        return clipped(row.comment)

    @admin.display(description="Created")
    def created(self, row: RuleVersion) -> str:
        return moment(row.created_at)

    @admin.display(description="Definition")
    def definition_shown(self, row: RuleVersion) -> SafeString:
        return as_text(rule_text(RuleSpec.from_canonical(row.spec)))

    @admin.action(description="Go back to the chosen version", permissions=["operate"])
    def roll_back(self, request: HttpRequest, chosen: QuerySet[RuleVersion]) -> HttpResponse | None:
        def ask(row: RuleVersion, by: str, reason: str) -> str:
            rule = roll_back_rule(tenant=row.rule.tenant, slug=row.rule.slug, number=row.number, by=by, comment=reason)
            return f"it is version {rule.version} now"

        return self.steer(
            request, chosen.select_related("rule__tenant").order_by("pk"), ask, action="roll_back",
            question="Go back to these versions?", consequence="Their content becomes the latest version; enabled or not stays.",
            named=lambda row: f"{row.rule.slug} v{row.number}",
        )  # fmt: skip
