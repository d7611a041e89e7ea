"""Event sources as one tenant sees them, and who listens to them."""

from __future__ import annotations

from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownSource
from triggers.models import EventSource, Listener


def sources_of(
    tenant_id: int, *, kinds: tuple[str, ...] = (), after: str | None = None, limit: int = 50
) -> Page[EventSource]:
    """Return a page of sources by name."""
    rows = EventSource.objects.filter(tenant_id=tenant_id).order_by("slug")
    if kinds:
        rows = rows.filter(kind__in=kinds)
    if after is not None:
        rows = rows.filter(slug__gt=after)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.slug)


def source_of(tenant_id: int, slug: str) -> EventSource:
    """Return a source by its name; raises UnknownSource."""
    row = EventSource.objects.filter(tenant_id=tenant_id, slug=slug).first()
    if row is None:
        raise UnknownSource(f"There is no event source {slug}.")
    return row


def listeners_of(source: EventSource) -> list[Listener]:
    """Return the processes that listen to a source, as they last reported; their number is that of its processes."""
    return list(Listener.objects.filter(source=source).order_by("instance"))


def users_of_secret(tenant_id: int, name: str) -> list[str]:
    """Say which sources name a secret."""
    rows = EventSource.objects.filter(tenant_id=tenant_id).values_list("slug", "secrets").order_by("slug")
    return [f"the event source {slug}" for slug, secrets in rows if name in secrets.values()]
