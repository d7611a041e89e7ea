"""What the pages of the admin share: a ledger that nobody edits, lists without counts, links between records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from orchestrator.errors import UpbeatError

#: Colours of the theme by the word of a state; the word stands beside, never colour alone.
STATE_COLOURS = {
    "succeeded": "success",
    "failed": "danger",
    "timed out": "danger",
    "lost": "danger",
    "upstream failed": "warning",
    "cancelled": "warning",
    "running": "info",
    "ready": "info",
    "retry waiting": "warning",
}

#: Longer names keep their width up to a bound, longer texts get two lines at most.
ROOMY_FROM = 8
CLIPPED_FROM = 22


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


Row = TypeVar("Row", bound=Model)
#: What is asked of one row, by whom and why; returns what to say about it.
Ask = Callable[[Row, str, str], "SafeString | str"]


class Steers(ModelAdmin):
    """Actions that ask a service: a page asks whether and why, then each row says what became of it."""

    #: Who has it may steer; it says nothing about who may edit.
    steering_permission = "orchestrator.change_jobrun"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.steering_permission)

    def steer(
        self,
        request: HttpRequest,
        rows: Iterable[Row],
        ask: Ask[Row],
        *,
        action: str,
        question: str,
        consequence: str,
        named: Callable[[Row], str],
    ) -> HttpResponse | None:
        """Ask for a confirmation and a reason, then do it row by row; a refused row stops no other."""
        chosen = list(rows)
        if "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": question,
                "opts": self.opts,
                "action": action,
                "consequence": consequence,
                "checkbox": ACTION_CHECKBOX_NAME,
                "rows": [(row.pk, named(row)) for row in chosen],
                "back": request.get_full_path(),
            }
            return render(request, "orchestrator/confirm_command.html", context)
        by = by_person(request)
        reason = request.POST.get("reason", "").strip()[:500]
        for row in chosen:
            try:
                said = ask(row, by, reason)
            except UpbeatError as error:
                self.message_user(request, f"{named(row)}: {error.message}", messages.WARNING)
            else:
                self.message_user(request, format_html("{}: {}", named(row), said), messages.SUCCESS)
        return None


def by_person(request: HttpRequest) -> str:
    """Return who asks, as records name them."""
    return f"user:{request.user.get_username()}"


def state_word(state: str) -> str:
    """Write a state as people read it; STATE_COLOURS knows it by this word."""
    return state.replace("_", " ")


def link(obj: Model | None, text: str | None = None) -> SafeString | str:
    """Link to the page of a record."""
    if obj is None:
        return "–"
    url = reverse(f"admin:{obj._meta.app_label}_{obj._meta.model_name}_change", args=[obj.pk])
    shown = roomy(text or str(obj))
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, shown)


def roomy(text: str) -> SafeString | str:
    """Give a name the room that keeps it from being broken at every hyphen by the columns beside it."""
    if len(text) <= ROOMY_FROM:
        return text
    return format_html(
        '<span style="display:inline-block;width:max-content;max-width:max(13rem,min(60vw,36rem - 25vw))">{}</span>',
        text,
    )


def clipped(text: str, *, rem: int = 10) -> SafeString | str:
    """Show two lines of a text, so that one long reason does not fill the screen; all of it on hover.

    `rem` is the least width that it claims from the columns beside it.
    """
    if len(text) <= CLIPPED_FROM:
        return text or "–"
    return format_html(
        '<span title="{}" style="display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;'
        'min-width:min({}rem,55vw);max-width:32rem;overflow-wrap:anywhere">{}</span>',
        text,
        rem,
        text,
    )


def list_link(model: type[Model], text: str, **lookups: Any) -> SafeString:
    """Link to the list of the records that the lookups choose."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500 whitespace-nowrap" href="{}?{}">{}</a>',
        url,
        urlencode(lookups),
        text,
    )


def as_json(value: Any) -> SafeString:
    """Show JSON as people read it."""
    return format_html(
        '<pre class="text-xs" style="white-space:pre-wrap;overflow-wrap:anywhere">{}</pre>',
        json.dumps(value, indent=2, ensure_ascii=False),
    )


def as_text(value: str) -> SafeString:
    return format_html('<pre class="text-xs" style="white-space:pre-wrap;overflow-wrap:anywhere">{}</pre>', value)


def moment(value: datetime | None) -> SafeString | str:
    """Show a moment to the second with its zone; the exact value on hover."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    return format_html(
        '<span class="whitespace-nowrap" title="{}">{}</span>', value.isoformat(), f"{local:%Y-%m-%d %H:%M:%S %Z}"
    )


def duration(start: datetime | None, end: datetime | None) -> SafeString | str:
    """Show how long something took, or has taken so far."""
    if start is None:
        return "–"
    seconds = max(0.0, ((end or timezone.now()) - start).total_seconds())
    shown = duration_words(seconds)
    return format_html('<span class="whitespace-nowrap">{}</span>', shown if end else f"{shown} …")


def duration_words(seconds: float) -> str:
    """Say a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
