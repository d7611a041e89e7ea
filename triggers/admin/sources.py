"""Event sources, and the processes that listen to them. Written by services alone; secrets are named, never shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import yaml
from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from orchestrator.admin.filters import Chosen, words_filter
from orchestrator.admin.mixins import (
    LedgerAdmin,
    ReadOnlyAdmin,
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
from orchestrator.models import Tenant
from triggers.admin.parts import COLOURS, refusal
from triggers.models import DeadLetter, Event, EventSource, Listener
from triggers.models.sources import ID_POLICIES, KINDS
from triggers.rules.text import read_form
from triggers.services.sources import SourceSpec, create_source, delete_source, replace_source, switch_source
from triggers.sources.registry import source_kinds

#: A listener reports every few seconds; after this it hangs or is gone.
SILENT_AFTER = timedelta(seconds=60)
_MONO = {"rows": 12, "style": "font-family: monospace", "spellcheck": "false"}


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True) if value else ""


class SourceForm(forms.ModelForm):
    """The fields of a source as texts. What is wrong with them is said by the kind of source itself."""

    # What a name may be is said by the service, together with all else that is wrong.
    slug = forms.CharField(
        label="Name", widget=UnfoldAdminTextInputWidget, help_text="Lower-case letters, digits and hyphens."
    )
    kind = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    config_text = forms.CharField(
        label="Config",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs=_MONO),
        help_text="YAML or JSON: the fields of its kind, listed below.",
    )
    secrets_text = forms.CharField(
        label="Secrets",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={**_MONO, "rows": 3}),
        help_text="What it is for and the name of a stored secret, such as `current: github-webhook`. Never the secret itself.",
    )
    id_policy = forms.ChoiceField(
        required=False,
        widget=UnfoldAdminSelectWidget,
        choices=[("", "that of its kind"), *((word, word) for word in ID_POLICIES)],
        help_text="Where the id of a message comes from that has none of its own.",
    )
    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    request: HttpRequest
    stored: EventSource | None = None

    class Meta:
        model = EventSource
        fields = ("tenant", "slug", "kind", "enabled", "id_policy")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kind" in self.fields:
            self.fields["kind"].choices = [(kind.name, kind.label) for kind in source_kinds]  # type: ignore[attr-defined]
        if self.instance.pk:
            self.initial["config_text"] = _yaml(self.instance.config)
            self.initial["secrets_text"] = _yaml(self.instance.secrets)
            self.initial["seen_version"] = self.instance.version

    def clean_config_text(self) -> Mapping[str, Any]:
        return self._mapping("config_text")

    def clean_secrets_text(self) -> Mapping[str, Any]:
        secrets = self._mapping("secrets_text")
        if not all(isinstance(name, str) for name in secrets.values()):
            raise ValidationError("Expected names of stored secrets, one for each purpose.")
        return secrets

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        row = self.instance
        spec = SourceSpec(
            slug=row.slug if row.pk else cleaned["slug"],
            kind=row.kind if row.pk else cleaned["kind"],
            config=cleaned["config_text"],
            secrets=cleaned["secrets_text"],
            id_policy=cleaned["id_policy"],
            enabled=cleaned["enabled"],
        )
        by = by_person(self.request)
        try:
            # Here and not when saving: what only the database knows is then said beside the field, too.
            if row.pk:
                self.stored = replace_source(
                    tenant=row.tenant, spec=spec, by=by, if_version=cleaned.get("seen_version")
                )
            else:
                self.stored = create_source(tenant=cleaned["tenant"], spec=spec, by=by)
        except UpbeatError as error:
            said = refusal(error)
            places = [detail.path for detail in error.details] if len(said) == len(error.details) else [""] * len(said)
            for place, words in zip(places, said, strict=True):
                self.add_error(self._field_of(place), ValidationError(words))
        return cleaned

    def _post_clean(self) -> None:
        """Ask no more: the service has checked and stored it, and a check for doubles would find that row."""

    def _mapping(self, name: str) -> Mapping[str, Any]:
        text: str = self.cleaned_data[name]
        if not text.strip():
            return {}
        found = read_form(text, expected="fields and their values")
        if not isinstance(found, Mapping):
            raise ValidationError([str(problem) for problem in found])
        return found

    def _field_of(self, path: str) -> str | None:
        first = path.partition(".")[0].partition("[")[0]
        field = {"config": "config_text", "secrets": "secrets_text", "type": "kind"}.get(first, first)
        return field if field in self.fields else None


@admin.register(EventSource)
class EventSourceAdmin(Steers):
    form = SourceForm
    steering_permission = "triggers.steer_eventsource"
    actions: Any = ("enable", "disable", "delete_chosen")
    list_display = ("slug_shown", "tenant", "kind", "standing", "reads", "listening", "events", "updated", "updated_by")
    list_filter = (words_filter("kind", "kind", KINDS), "enabled", TenantFilter)
    empty_says = "A source says where events come from: topics of Kafka, queues of RabbitMQ, a webhook. Add one here, or apply a file with `kind: EventSource`."
    search_fields = ("slug", "=tenant__slug")
    search_help_text = "Part of a name, or the whole name of a tenant"
    list_select_related = ("tenant",)
    ordering = ("slug",)
    list_per_page = 50
    show_full_result_count = False

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"request": request})

    def get_queryset(self, request: HttpRequest) -> QuerySet[EventSource]:
        return super().get_queryset(request).prefetch_related("listeners")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.site = request.build_absolute_uri("/").rstrip("/")
        return row

    def get_fields(self, request: HttpRequest, obj: EventSource | None = None) -> Any:
        if obj is None:
            return ("tenant", ("slug", "kind"), ("enabled", "id_policy"), "config_text", "secrets_text", "known_fields")
        seen = ("endpoint_shown", "listeners_shown", ("events", "letters"), ("updated", "updated_by"))
        if not self.has_change_permission(request, obj):
            return ("tenant", ("slug", "kind"), ("enabled", "id_policy"), "config_shown", "secrets_shown", *seen)
        return (
            "tenant",
            ("slug", "kind"),
            ("enabled", "id_policy"),
            "config_text",
            "secrets_text",
            *seen,
            "known_fields",
            "seen_version",
        )

    def get_readonly_fields(self, request: HttpRequest, obj: EventSource | None = None) -> Any:
        if obj is None:
            return ("known_fields",)
        shown = ("endpoint_shown", "listeners_shown", "events", "letters", "updated", "updated_by", "known_fields")
        return ("tenant", "slug", "kind", "config_shown", "secrets_shown", *shown)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # By the action alone, which asks and goes through the service.
        return False

    def save_model(self, request: HttpRequest, obj: EventSource, form: Any, change: bool) -> None:
        obj.pk, obj.slug = form.stored.pk, form.stored.slug

    # --- columns

    @admin.display(description="Name", ordering="slug")
    def slug_shown(self, row: EventSource) -> str:
        return roomy(row.slug)

    @display(description="State", label=COLOURS)
    def standing(self, row: EventSource) -> str:
        return "enabled" if row.enabled else "disabled"

    @admin.display(description="Reads")
    def reads(self, row: EventSource) -> str:
        config = row.config
        what = config.get("topics") or config.get("queues") or config.get("provider") or "–"
        return clipped(", ".join(map(str, what)) if isinstance(what, list) else str(what))

    @admin.display(description="Listeners")
    def listening(self, row: EventSource) -> str:
        kind = source_kinds.get(row.kind)
        if kind is not None and not kind.listens:
            return "called by others"
        found = list(row.listeners.all())
        if not found:
            return "none" if row.enabled else "–"
        bad = sorted({each.state for each in found if each.state != "ok"})
        return f"{len(found)}" + (f" ({', '.join(bad)})" if bad else "")

    @admin.display(description="Events")
    def events(self, row: EventSource) -> str:
        return list_link(Event, "Show", event_source__id__exact=row.pk) if row.pk else "–"

    @admin.display(description="Dead letters")
    def letters(self, row: EventSource) -> str:
        return list_link(DeadLetter, "Show", event_source__id__exact=row.pk) if row.pk else "–"

    @admin.display(description="Updated", ordering="updated_at")
    def updated(self, row: EventSource) -> str:
        return moment(row.updated_at)

    # --- the page of one

    @admin.display(description="Endpoint")
    def endpoint_shown(self, row: Any) -> SafeString | str:
        if not row.endpoint:
            return "– (it reads by itself)"
        url = f"{getattr(row, 'site', '')}/api/v1/hooks/{row.endpoint}"
        return format_html('<code style="overflow-wrap:anywhere">POST {}</code>', url)

    @admin.display(description="Config")
    def config_shown(self, row: EventSource) -> SafeString:
        return as_text(_yaml(row.config) or "–")

    @admin.display(description="Secrets")
    def secrets_shown(self, row: EventSource) -> str:
        return ", ".join(f"{purpose}: {name}" for purpose, name in row.secrets.items()) or "–"

    @admin.display(description="Listeners")
    def listeners_shown(self, row: EventSource) -> SafeString | str:
        words = self.listening(row)
        return list_link(Listener, words, source__id__exact=row.pk) if words[:1].isdigit() else words

    @admin.display(description="Fields of a config")
    def known_fields(self, row: EventSource | None) -> SafeString:
        kinds = [kind for kind in source_kinds if row is None or not row.pk or kind.name == row.kind]
        return format_html_join(
            "",
            '<details{}><summary class="cursor-pointer font-semibold mb-2">{}</summary>'
            '<p class="mb-2">Secrets: {}</p><dl class="mb-4">{}</dl></details>',
            (
                (
                    " open" if len(kinds) == 1 else "",
                    kind.label,
                    ", ".join(kind.secret_names) or "none",
                    format_html_join(
                        "",
                        '<dt class="font-mono text-xs">{}</dt><dd class="mb-2">{}</dd>',
                        (
                            (name + (" (required)" if name in kind.schema.get("required", ()) else ""), _said(field))
                            for name, field in kind.schema.get("properties", {}).items()
                        ),
                    ),
                )
                for kind in kinds
            ),
        )

    # --- actions

    @admin.action(description="Enable the chosen sources", permissions=["operate"])
    def enable(self, request: HttpRequest, chosen: QuerySet[EventSource]) -> HttpResponse | None:
        return self._switch(
            request, chosen, True, action="enable", question="Enable these sources?",
            consequence="Their listeners start reading; webhooks accept calls.",
        )  # fmt: skip

    @admin.action(description="Disable the chosen sources", permissions=["operate"])
    def disable(self, request: HttpRequest, chosen: QuerySet[EventSource]) -> HttpResponse | None:
        return self._switch(
            request, chosen, False, action="disable", question="Disable these sources?",
            consequence="Their listeners stop; what is sent meanwhile waits at the broker, a webhook's calls are refused.",
        )  # fmt: skip

    @admin.action(description="Delete the chosen sources", permissions=["remove"])
    def delete_chosen(self, request: HttpRequest, chosen: QuerySet[EventSource]) -> HttpResponse | None:
        def ask(row: EventSource, by: str, reason: str) -> str:
            delete_source(tenant=row.tenant, slug=row.slug, by=by, reason=reason)
            return "deleted"

        return self.steer(
            request, chosen.select_related("tenant").order_by("slug"), ask, action="delete_chosen",
            question="Delete these sources?", consequence="Nobody reads them any more. Their events and dead letters stay.",
            named=lambda row: row.slug, permission="triggers.delete_eventsource",
        )  # fmt: skip

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self.allows(request, "delete")

    def _switch(
        self, request: HttpRequest, chosen: QuerySet[EventSource], enabled: bool, **page: Any
    ) -> HttpResponse | None:
        def ask(row: EventSource, by: str, reason: str) -> str:
            tenant: Tenant = row.tenant
            switch_source(tenant=tenant, slug=row.slug, enabled=enabled, by=by, reason=reason)
            return "enabled" if enabled else "disabled"

        rows = chosen.select_related("tenant").order_by("slug")
        return self.steer(request, rows, ask, named=lambda row: row.slug, **page)


@admin.register(Listener)
class ListenerAdmin(LedgerAdmin, ReadOnlyAdmin):
    list_display = (
        "instance_shown",
        "source_link",
        "kind",
        "state_label",
        "behind",
        "last_loop",
        "reason_shown",
        "started",
    )
    list_filter = (
        words_filter("state", "state", ("ok", "paused", "degraded", "failing")),
        words_filter("kind", "kind", (*KINDS, "timers", "dlx-import")),
        ("source", Chosen),
    )
    list_filter_submit = True
    empty_says = (
        "Each process that listens to an event source reports itself here. `manage.py run_triggers` starts one."
    )
    search_fields = ("instance",)
    search_help_text = "Part of an instance's name"
    list_select_related = ("source",)
    ordering = ("instance",)
    fields = (
        ("instance", "kind"),
        "source_link",
        ("state_label", "reason"),
        "assigned_shown",
        ("last_loop", "started"),
    )
    readonly_fields = ("source_link", "state_label", "assigned_shown", "last_loop", "started")

    @admin.display(description="Instance")
    def instance_shown(self, row: Listener) -> str:
        return roomy(row.instance)

    @admin.display(description="Source")
    def source_link(self, row: Listener) -> str:
        return link(row.source) if row.source_id else "– (a role)"

    @display(description="State", label=COLOURS)
    def state_label(self, row: Listener) -> str:
        # Its own word is as old as its last loop.
        return "silent" if timezone.now() - row.last_loop_at > SILENT_AFTER else row.state

    @admin.display(description="Not yet read")
    def behind(self, row: Listener) -> str:
        known = [count for count in row.assigned.values() if count is not None]
        parts = f"{len(row.assigned)} part{'s' if len(row.assigned) != 1 else ''}"
        return f"{sum(known):,} in {parts}" if known else parts if row.assigned else "–"

    @admin.display(description="Last loop")
    def last_loop(self, row: Listener) -> str:
        return moment(row.last_loop_at)

    @admin.display(description="Reason")
    def reason_shown(self, row: Listener) -> str:
        return clipped(row.reason)

    @admin.display(description="Started")
    def started(self, row: Listener) -> str:
        return moment(row.started_at)

    @admin.display(description="Reads")
    def assigned_shown(self, row: Listener) -> SafeString | str:
        shown = format_html_join(
            "",
            "<div>{}: {}</div>",
            ((part, "unknown" if count is None else f"{count:,} not yet read") for part, count in row.assigned.items()),
        )
        return shown or "nothing"


def _said(field: Mapping[str, Any]) -> str:
    kind = field.get("type") or ("one of " + ", ".join(map(str, field["enum"])) if "enum" in field else "")
    if isinstance(kind, (list, tuple)):
        kind = " or ".join(kind)
    return " – ".join(filter(None, (str(kind), str(field.get("description", "")))))
