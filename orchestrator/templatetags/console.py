"""What templates of the console and of the admin write alike: states, moments, durations, the refreshed part."""

from __future__ import annotations

import json
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


@register.simple_tag
def tone(kind: Kind, state: str) -> str:
    """Return the colour of a state, for what stands beside its badge."""
    return status_of(kind, state).tone


@register.filter
def words(name: str) -> str:
    """Write a name of the ledger as words."""
    return name.replace("_", " ")


@register.filter
def seconds(value: float) -> str:
    """Say a number of seconds in its largest units."""
    return f"{value:g} s" if value < 120 else duration_words(value)


@register.filter
def pretty(value: Any) -> str:
    """Show JSON as people read it; the template escapes it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@register.simple_tag
def parameter(value: Any) -> SafeString | str:
    """Show the value of a parameter; a secret by its name alone."""
    if isinstance(value, dict) and set(value) == {"secret"}:
        return format_html('<span class="c-subtle">the secret</span> <code>{}</code>', value["secret"])
    if isinstance(value, str):
        return value or format_html('<span class="c-subtle">empty</span>')
    return format_html("<code>{}</code>", json.dumps(value, ensure_ascii=False))


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
        '<time class="c-time" data-since="{0}" datetime="{0}" title="since {0}">{1}</time>',
        value.isoformat(),
        f"{timezone.localtime(value):%H:%M:%S %Z}",
    )


@register.simple_tag(takes_context=True)
def live_region(context: template.Context) -> SafeString:
    """Write the part of a page that htmx refreshes; `ConsolePage.live_template` is its content."""
    values: dict[Any, Any] = context.flatten()
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
