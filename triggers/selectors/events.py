"""Events as one tenant sees them: what came, which rules fired on it, which did not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.dateparse import parse_datetime

from orchestrator.errors import Detail, InvalidRequest
from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownEvent
from triggers.models import Event, EventSource, Firing, RuleVersion
from triggers.models.events import EVENT_STATES
from triggers.selectors.firings import ShownFiring, named

#: A text is looked for in so many of the newest events that the other filters leave: their payloads have no index.
SEARCHED: Final = 10_000
#: Firings that a list shows of one event; its detail shows all.
FIRINGS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a list shows, or a replay takes; what is empty or None does not matter."""

    event_type: str | None = None
    source: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    states: tuple[str, ...] = ()
    search: str | None = None


@dataclass(frozen=True, slots=True)
class NotFired:
    """A version of a rule whose condition was false."""

    rule_id: int
    rule: str
    version: int


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """An event with what rules made of it."""

    event: Event
    firings: list[ShownFiring]
    not_fired: list[NotFired]


def event_filter(asked: Mapping[str, Any], *, within: str = "", search: str | None = None) -> EventFilter:
    """Read a filter of events, from a query or an object; `within` is the path of the object. Raises InvalidRequest."""
    problems: list[Detail] = []

    def refuse(key: str, value: Any, expected: str) -> None:
        problems.append(Detail(within + key, value[:200] if isinstance(value, str) else None, expected))

    def text(key: str) -> str | None:
        value = asked.get(key)
        if value is None or (isinstance(value, str) and 0 < len(value) <= 200):
            return value
        refuse(key, value, "a text of 1 to 200 characters")
        return None

    def moment(key: str) -> datetime | None:
        value = text(key)
        if value is None:
            return None
        try:
            # A `+` in a query is a blank unless it was encoded.
            found = parse_datetime(value.replace(" ", "+") if "T" in value else value)
            if found is not None:
                return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        refuse(key, value, "a moment such as 2027-01-31T06:00:00Z")
        return None

    given = text("state")
    states = () if given is None else tuple(part.strip() for part in given.split(","))
    for state in states:
        if state not in EVENT_STATES:
            refuse("state", state, "one of " + ", ".join(EVENT_STATES))
    chosen = EventFilter(
        event_type=text("type"),
        source=text("source"),
        received_from=moment("from"),
        received_to=moment("to"),
        states=states,
        search=search,
    )
    if problems:
        raise InvalidRequest(f"The {'body' if within else 'query'} has problems.", details=tuple(problems))
    return chosen


def events_of(tenant_id: int, chosen: EventFilter, *, before: int | None = None, limit: int = 50) -> Page[ShownEvent]:
    """Return a page of events, newest first, with four queries whatever its length."""
    rows = chosen_events(tenant_id, chosen)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found: Page[Event] = page_of(_searched(rows, chosen).order_by("-pk"), limit=limit, cursor_of=lambda row: row.pk)
    return Page(shown(found.items), found.next)


def event_of(tenant_id: int, event_id: int) -> ShownEvent:
    """Return an event; raises UnknownEvent."""
    row = Event.objects.filter(tenant_id=tenant_id, pk=event_id).first()
    if row is None:
        raise UnknownEvent(f"There is no event {event_id}.")
    return shown([row], firings_each=None)[0]


def chosen_events(tenant_id: int, chosen: EventFilter) -> QuerySet[Event, Event]:
    """Return the events that a filter chooses, in no order; its text is not looked for."""
    rows = Event.objects.filter(tenant_id=tenant_id)
    if chosen.event_type is not None:
        if chosen.event_type.endswith("*"):
            rows = rows.filter(event_type__startswith=chosen.event_type[:-1])
        else:
            rows = rows.filter(event_type=chosen.event_type)
    if chosen.source is not None:
        # What the message says it comes from, or the source of ours that received it.
        ours = EventSource.objects.filter(tenant_id=tenant_id, slug=chosen.source).values("pk")
        rows = rows.filter(Q(source=chosen.source) | Q(event_source_id__in=ours))
    if chosen.received_from is not None:
        rows = rows.filter(received_at__gte=chosen.received_from)
    if chosen.received_to is not None:
        rows = rows.filter(received_at__lt=chosen.received_to)
    if chosen.states:
        rows = rows.filter(state__in=chosen.states)
    return rows


def _searched(rows: QuerySet[Event, Event], chosen: EventFilter) -> QuerySet[Event, Event]:
    if not chosen.search:
        return rows
    newest = rows.order_by("-pk").values("pk")[:SEARCHED]
    within = Event.objects.filter(pk__in=newest).annotate(_text=Cast("payload", TextField()))
    found = set(
        within.filter(Q(_text__contains=chosen.search) | Q(trace_id=chosen.search)).values_list("pk", flat=True)
    )
    # An id is found however old its event is. Two queries: as one condition, no index would serve either.
    found |= set(rows.filter(message_id=chosen.search).values_list("pk", flat=True)[:SEARCHED])
    return rows.filter(pk__in=found)


def shown(rows: list[Event], *, firings_each: int | None = FIRINGS_SHOWN) -> list[ShownEvent]:
    """Return events with what rules made of them, with three queries."""
    by_event: dict[int, list[ShownFiring]] = defaultdict(list)
    for each in named(Firing.objects.filter(event_id__in=[row.pk for row in rows]).order_by("pk")):
        by_event[each.firing.event_id].append(each)
    versions = _versions({pk for row in rows for pk in row.not_fired})
    return [
        ShownEvent(row, by_event[row.pk][:firings_each], [versions[pk] for pk in row.not_fired if pk in versions])
        for row in rows
    ]


def _versions(ids: set[int]) -> dict[int, NotFired]:
    found: Any = RuleVersion.objects.filter(pk__in=ids).values_list("pk", "rule_id", "rule__slug", "number")
    return {pk: NotFired(rule_id, slug, number) for pk, rule_id, slug, number in found}
