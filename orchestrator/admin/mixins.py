"""What the pages of the admin share: a ledger that nobody edits, lists without counts, links between records."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

#: Colours of the theme by state; the word stands beside, never colour alone.
STATE_COLOURS = {
    "succeeded": "success",
    "failed": "danger",
    "timed_out": "danger",
    "lost": "danger",
    "upstream_failed": "warning",
    "cancelled": "warning",
    "running": "info",
    "ready": "info",
    "retry_waiting": "warning",
}


class ReadOnlyAdmin(ModelAdmin):
    """Rows that only services write. Actions may still ask a service."""

    actions_on_top = True

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class LedgerAdmin(ReadOnlyAdmin):
    """Tables of any size: newest first, pages without a count, nothing sorted without an index."""

    # By this very class the theme knows not to show a count.
    paginator = InfinitePaginator
    show_full_result_count = False
    # "All" of a list that was never counted could be a million runs.
    list_disable_select_all = True
    list_per_page = 50
    ordering = ("-pk",)
    sortable_by = ()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # Where the theme has no switch, it would show the paginator's stand-in for a count.
        return super().changelist_view(request, {"selection_note_all": "", **(extra_context or {})})


def link(obj: Model | None, text: str | None = None) -> SafeString | str:
    """Link to the page of a record."""
    if obj is None:
        return "–"
    url = reverse(f"admin:orchestrator_{obj._meta.model_name}_change", args=[obj.pk])
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, text or str(obj))


def list_link(model: type[Model], text: str, **lookups: Any) -> SafeString:
    """Link to the list of the records that the lookups choose."""
    url = reverse(f"admin:orchestrator_{model._meta.model_name}_changelist")
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500" href="{}?{}">{}</a>', url, urlencode(lookups), text
    )


def as_json(value: Any) -> SafeString:
    """Show JSON as people read it."""
    return format_html(
        '<pre class="text-xs whitespace-pre-wrap">{}</pre>', json.dumps(value, indent=2, ensure_ascii=False)
    )


def as_text(value: str) -> SafeString:
    return format_html('<pre class="text-xs whitespace-pre-wrap">{}</pre>', value)


def moment(value: datetime | None) -> SafeString | str:
    """Show a moment to the second with its zone; the exact value on hover."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    return format_html(
        '<span class="whitespace-nowrap" title="{}">{}</span>', value.isoformat(), f"{local:%Y-%m-%d %H:%M:%S %Z}"
    )


def duration(start: datetime | None, end: datetime | None) -> str:
    """Show how long something took, or has taken so far."""
    if start is None:
        return "–"
    seconds = max(0.0, ((end or timezone.now()) - start).total_seconds())
    if seconds < 10:
        shown = f"{seconds:.2f} s"
    elif seconds < 120:
        shown = f"{seconds:.0f} s"
    else:
        shown = str(timedelta(seconds=int(seconds)))
    return shown if end else f"{shown} …"
