"""What templates of the console and of the admin write alike: states, moments, durations, the refreshed part."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from orchestrator.console.statuses import Kind, status_of
from orchestrator.console.words import duration_words

register = template.Library()


@register.simple_tag
def badge(kind: Kind, state: str) -> SafeString:
    """Show a state as icon and word in its colour; what it means on hover."""
    status = status_of(kind, state)
    return format_html(
        '<span class="c-badge c-tone-{}" data-state="{}" title="{}">'
        '<span class="material-symbols-outlined" aria-hidden="true">{}</span>{}</span>',
        status.tone,
        status.state,
        status.help,
        status.icon,
        status.word,
    )


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """Show a moment to the second with its zone; the exact value on hover."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    return format_html(
        '<time class="c-time" datetime="{0}" title="{0}">{1}</time>',
        value.isoformat(),
        f"{local:%Y-%m-%d %H:%M:%S %Z}",
    )


@register.filter
def clock(value: datetime | None) -> SafeString | str:
    """Show the time of day with its zone, for what happened within one run; the exact value on hover."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    return format_html(
        '<time class="c-time" datetime="{0}" title="{0}">{1}</time>', value.isoformat(), f"{local:%H:%M:%S %Z}"
    )


@register.simple_tag
def took(start: datetime | None, end: datetime | None) -> SafeString | str:
    """Show how long something took; while it goes on, the browser counts on (`refresh.js`)."""
    if start is None:
        return "–"
    if end is None:
        return since(start)
    return format_html('<span class="c-time">{}</span>', duration_words(max(0.0, (end - start).total_seconds())))


@register.filter
def since(value: datetime | None) -> SafeString | str:
    """Show how long ago a moment was, counted on by the browser; the moment itself on hover.

    The text is the same however late it is written, so that a refresh with nothing new stays empty.
    """
    if value is None:
        return "–"
    return format_html(
        '<time class="c-time" data-since="{0}" datetime="{0}" title="since {0}">{1:%H:%M:%S %Z}</time>',
        value.isoformat(),
        timezone.localtime(value),
    )


@register.simple_tag(takes_context=True)
def live_region(context: template.Context) -> SafeString:
    """Write the part of a page that htmx refreshes; `ConsolePage.live_template` is its content."""
    values: dict[str, Any] = context.flatten()
    attributes = SafeString("")
    if not values.get("live_over"):
        attributes = format_html(
            ' hx-get="{}" hx-trigger="refresh, every {}s" hx-swap="innerHTML"',
            values["request"].get_full_path(),
            f"{values['page'].every:g}",
        )
    return format_html(
        '<div id="live" class="c-live" data-live data-seen="{}"{}>{}</div>',
        values["live_seen"],
        attributes,
        values["live_html"],
    )
