"""What the pages share: colours of words, links by number, what a service refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from orchestrator.admin.mixins import link
from orchestrator.errors import UpbeatError
from orchestrator.models import JobRun
from triggers.errors import StaleVersion
from triggers.models import Event

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


def place_of(part: str, off: int | None) -> str:
    """Return where a message stood at its transport."""
    return (part if off is None else f"{part}, offset {off}") or "–"
