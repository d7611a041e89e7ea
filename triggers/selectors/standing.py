"""How events stand, for the overview: sources with what they have not read yet, those in trouble first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from django.db.models.functions import Now

from orchestrator.registry import EventStanding, SourceStanding
from triggers.listeners.health import SILENT_SECONDS
from triggers.listeners.hosting import LISTENERS
from triggers.models import DeadLetter, EventSource, Listener

#: Sources that are looked at, and dead letters that are counted: more is shown as "more than".
MOST_SOURCES: Final = 1_000
MOST_LETTERS: Final = 10_000
#: Worst first; of several listeners the worst word counts.
STATES: Final = ("silent", "failing", "degraded", "paused", "ok")


def event_standing(tenants: frozenset[int] | None, named: int) -> EventStanding:
    """Return how the enabled sources of the tenants stand, `named` of them by name. Three queries."""
    sources = EventSource.objects.filter(enabled=True).only("slug", "kind").order_by("slug")
    letters = DeadLetter.objects.filter(state="open")
    if tenants is not None:
        sources = sources.filter(tenant_id__in=sorted(tenants))
        letters = letters.filter(tenant_id__in=sorted(tenants))
    chosen = list(sources[:MOST_SOURCES])
    live: dict[int, list[Listener]] = {}
    reports = Listener.objects.filter(source__in=sources, last_loop_at__gt=Now() - timedelta(seconds=SILENT_SECONDS))
    for row in reports.order_by("instance").defer("started_at"):
        if row.source_id is not None:
            live.setdefault(row.source_id, []).append(row)
    found = [_standing_of(source, live.get(source.pk, ())) for source in chosen]
    found.sort(key=lambda each: (STATES.index(each.state), -(each.lag or 0), each.name))
    return EventStanding(
        tuple(found[:named]), max(0, len(found) - named), letters.order_by()[: MOST_LETTERS + 1].count()
    )


def _standing_of(source: EventSource, reports: Iterable[Listener]) -> SourceStanding:
    if source.kind not in LISTENERS:
        # A webhook is called: nobody listens, and nothing waits unread.
        return SourceStanding(source.pk, source.slug, source.kind, "ok", None)
    reports = list(reports)
    if not reports:
        return SourceStanding(source.pk, source.slug, source.kind, "silent", None, "nobody listens to it")
    worst = min(reports, key=_badness)
    lag = lag_of(one.assigned for one in reports)
    return SourceStanding(source.pk, source.slug, source.kind, worst.state, lag, worst.reason)


def _badness(report: Listener) -> int:
    return STATES.index(report.state) if report.state in STATES else 0


def lag_of(assigned: Iterable[Mapping[str, int | None]]) -> int | None:
    """Add up the messages not yet read; what two report, such as two consumers of one queue, counts once.

    None while nothing is known.
    """
    by_part: dict[str, int] = {}
    for parts in assigned:
        for part, lag in parts.items():
            if lag is not None:
                by_part[part] = max(lag, by_part.get(part, 0))
    return sum(by_part.values()) if by_part else None
