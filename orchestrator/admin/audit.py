"""The audit record: who changed and commanded what, with what was before and after. To search, never to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from django.apps import apps
from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from orchestrator.admin.filters import period, typed, words_filter
from orchestrator.admin.lists import LooksAtTheNewest
from orchestrator.admin.mixins import LedgerAdmin, TenantFilter, clipped, link, moment, roomy
from orchestrator.models import AuditRecord, JobVersion, Tenant
from orchestrator.services.access import RECORDED

SURFACES: Final = ("admin", "api", "command", "system")
#: Characters of the changes that a row of the list shows.
SUMMED_UP: Final = 200


@admin.register(AuditRecord)
class AuditRecordAdmin(LooksAtTheNewest, LedgerAdmin):
    # Parts of names, and what has no index.
    unindexed = ("q", "surface", "subject_id")
    looked_at = 50_000
    list_display = ("at_shown", "by_shown", "action", "subject_shown", "changes", "reason_shown", "tenant_shown")
    list_display_links = ("at_shown",)
    list_filter = (
        words_filter("subject", "of what", RECORDED),
        typed("action", paths=("action",), shown_as="action", help_text="Such as job.update or run.cancel"),
        typed("by", paths=("by",), shown_as="by", help_text="Such as user:anna, token:ci or cli:root"),
        period("at", path="at", shown_as="time"),
        words_filter("surface", "by way of", SURFACES),
        TenantFilter,
        typed("subject_id", paths=("subject_id",), shown_as="number of the subject"),
    )
    list_filter_submit = True
    search_fields = ("subject_name", "by", "action", "reason")
    search_help_text = "Part of a name, a person, an action or a reason"
    empty_says = "Every change and command is recorded here, whether it came by a page, the API or the shell."
    fields = (
        ("at_shown", "by"),
        ("action", "surface"),
        ("subject_shown", "tenant_shown"),
        "reason_text",
        "before_and_after",
    )
    readonly_fields = ("at_shown", "subject_shown", "tenant_shown", "reason_text", "before_and_after")

    def _is_bounded(self, request: HttpRequest) -> bool:
        # All that happened to one thing has its index.
        of_one = request.GET.get("subject") and request.GET.get("subject_id")
        return super()._is_bounded(request) and not (of_one and not request.GET.get("q"))

    # --- columns

    @admin.display(description="At")
    def at_shown(self, row: AuditRecord) -> str:
        return moment(row.at)

    @admin.display(description="By")
    def by_shown(self, row: AuditRecord) -> str:
        return roomy(row.by) if row.by else "–"

    @admin.display(description="Of what")
    def subject_shown(self, row: AuditRecord) -> SafeString | str:
        word = row.subject.replace("_", " ")
        text = f"{word} {row.subject_name or row.subject_id}".strip()
        # A record outlives its subject: a link may lead to nothing.
        label = RECORDED.get(row.subject)
        if label is None or not row.subject_id.isdigit() or row.action.endswith(".delete"):
            return clipped(text)
        try:
            return link(apps.get_model(label)(pk=int(row.subject_id)), text)
        except NoReverseMatch:
            return clipped(text)

    @admin.display(description="Changes")
    def changes(self, row: AuditRecord) -> str:
        names = _names(row)
        said = "; ".join(f"{name}: {_said(row, name)}" for name in names)
        return clipped(said[:SUMMED_UP])

    @admin.display(description="Reason")
    def reason_shown(self, row: AuditRecord) -> str:
        return clipped(row.reason)

    @admin.display(description="Tenant")
    def tenant_shown(self, row: Any) -> str:
        if row.tenant_id is None:
            return "–"
        return roomy(row.tenant or f"#{row.tenant_id} (gone)")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditRecord]:
        # A record names its tenant by the number alone.
        slugs = Tenant.objects.filter(pk=OuterRef("tenant_id")).values("slug")[:1]
        return super().get_queryset(request).annotate(tenant=Subquery(slugs))

    # --- the page of one

    @admin.display(description="Reason")
    def reason_text(self, row: AuditRecord) -> str:
        return row.reason or "– (none was given)"

    @admin.display(description="What changed")
    def before_and_after(self, row: AuditRecord) -> SafeString | str:
        names = _names(row)
        if not names:
            return "– (what was done says it all; values of secrets are never recorded)"
        rows = format_html_join(
            "",
            '<tr><th scope="row" class="text-left align-top py-2 pr-4 font-medium">{}</th>'
            '<td class="align-top py-2 pr-4">{}</td><td class="align-top py-2">{}</td></tr>',
            ((name.replace("_", " "), _value(row.before, name), _value(row.after, name)) for name in names),
        )
        table = format_html(
            '<div style="overflow-x:auto" tabindex="0" role="region" aria-label="Before and after">'
            '<table class="text-sm w-full"><thead><tr><th scope="col" class="text-left py-2 pr-4">Field</th>'
            '<th scope="col" class="text-left py-2 pr-4">Before</th><th scope="col" class="text-left py-2">After</th>'
            "</tr></thead><tbody>{}</tbody></table></div>",
            rows,
        )
        return format_html("{}{}", table, _compare(row))


def _names(row: AuditRecord) -> list[str]:
    """Return the fields of both sides, in the order in which they were recorded."""
    return list({**(row.before or {}), **(row.after or {})})


def _said(row: AuditRecord, name: str) -> str:
    """Return a change as old → new; of what is new, or gone, what it is or was."""
    if row.before is None or row.after is None:
        return _short(row.before or row.after, name)
    return f"{_short(row.before, name)} → {_short(row.after, name)}"


def _short(side: Mapping[str, Any] | None, name: str) -> str:
    if side is None or name not in side:
        return "–"
    value = side[name]
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:60]


def _value(side: Mapping[str, Any] | None, name: str) -> SafeString | str:
    if side is None or name not in side:
        return format_html('<span title="There was nothing">{}</span>', "–")
    value = side[name]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        text = "\n".join(value)
    elif isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    return format_html('<pre class="text-xs" style="white-space:pre-wrap;overflow-wrap:anywhere">{}</pre>', text)


def _compare(row: AuditRecord) -> SafeString | str:
    """Lead from the change of a definition to the whole of it, line by line."""
    if row.action != "job.update" or not row.subject_id.isdigit():
        return ""
    old, new = ((side or {}).get("version") for side in (row.before, row.after))
    rows = JobVersion.objects.filter(job_id=int(row.subject_id), number__in=[old or 0, new or 0])
    versions = dict(rows.values_list("number", "pk"))
    if old not in versions or new not in versions:
        return ""
    url = reverse("admin:orchestrator_jobversion_compare")
    return format_html(
        '<p class="mt-2"><a class="text-primary-600 dark:text-primary-500" href="{}?old={}&amp;new={}">'
        "Compare the two versions line by line</a></p>",
        url,
        versions[old],
        versions[new],
    )
