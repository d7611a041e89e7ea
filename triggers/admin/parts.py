"""What the pages share: filters over known words, links by number, times that are still to come."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Max, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from orchestrator.admin.mixins import LedgerAdmin, link
from orchestrator.errors import UpbeatError
from orchestrator.models import JobRun
from triggers.errors import StaleVersion
from triggers.models import Event

#: Rows that a filter without an index looks through: some seconds at most.
LOOKED_AT = 1_000_000

#: Colours of the theme by the word; the word stands beside.
COLOURS = {
    "fired": "success",
    "matched": "success",
    "enabled": "success",
    "ok": "success",
    "done": "success",
    "replayed": "success",
    "error": "danger",
    "failed": "danger",
    "failing": "danger",
    "silent": "danger",
    "quarantined": "danger",
    "open": "danger",
    "suppressed": "warning",
    "expired": "warning",
    "degraded": "warning",
    "paused": "warning",
    "disabled": "warning",
    "held": "info",
    "running": "info",
    "received": "info",
}


def words_filter(name: str, shown_as: str, words: Collection[str]) -> type[admin.SimpleListFilter]:
    """Return a filter over known words. The framework's own would read every row to learn them."""

    class Words(admin.SimpleListFilter):
        title = shown_as
        parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(word, word.replace("_", " ")) for word in words]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{name: self.value()}) if self.value() in words else queryset

    return Words


class LooksAtTheNewest(LedgerAdmin):
    """Lists whose filters no index serves: those look through the newest rows alone, and the page says so.

    Without a bound, a filter for something rare would read every row that is kept.
    """

    #: Names of such filters, as they stand in an address.
    unindexed: tuple[str, ...] = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        oldest = self._oldest(request)
        return rows.filter(pk__gt=oldest) if oldest else rows

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if self._oldest(request):
            self.message_user(request, f"Only the newest {LOOKED_AT:,} rows are looked through.", messages.INFO)
        return super().changelist_view(request, extra_context)

    def _oldest(self, request: HttpRequest) -> int:
        """Return the id up to which rows are not looked at, 0 for none."""
        if not is_list(request) or not any(request.GET.get(name) for name in self.unindexed):
            return 0
        newest = self.model._default_manager.aggregate(newest=Max("pk"))["newest"] or 0
        return max(0, newest - LOOKED_AT)


def numbers_in(term: str) -> list[int]:
    """Return the number that a search may mean, such as `#41`."""
    digits = term.strip().removeprefix("#")
    return [int(digits)] if digits.isascii() and digits.isdigit() and len(digits) < 19 else []


def run_link(run_id: int | None) -> SafeString | str:
    return link(JobRun(pk=run_id), f"#{run_id}") if run_id else "–"


def event_link(event_id: int | None) -> SafeString | str:
    return link(Event(pk=event_id), f"#{event_id}") if event_id else "–"


def plain_link(url: str, text: str) -> SafeString:
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500 whitespace-nowrap" href="{}">{}</a>', url, text
    )


def page_link(name: str, text: str, *args: Any, **query: Any) -> SafeString:
    """Link to a page of the admin by its name."""
    url = reverse(f"admin:{name}", args=args)
    return plain_link(f"{url}?{urlencode(query)}" if query else url, text)


def lines(items: Iterable[tuple[Any, ...]], form: str, empty: str = "–") -> SafeString | str:
    """Return one line for each, or a word for none."""
    shown = format_html_join("", f'<div class="mb-1">{form}</div>', items)
    return shown or empty


def refusal(error: UpbeatError) -> list[str]:
    """Return what a service refused, one sentence for each problem."""
    if not error.details or isinstance(error, StaleVersion):
        return [error.message]
    return [
        f"{detail.path}: {detail.expected}" + (f"; found {detail.value}" if detail.value is not None else "")
        for detail in error.details
    ]


def is_list(request: HttpRequest) -> bool:
    """Whether the page is the list, not one record's."""
    match = request.resolver_match
    return match is not None and (match.url_name or "").endswith("changelist")


def place_of(part: str, off: int | None) -> str:
    """Return where a message stood at its transport."""
    return (part if off is None else f"{part}, offset {off}") or "–"
