"""Which events a call is about: read alike from the query of a list and from the body of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from orchestrator.api.bases import query, quoted
from orchestrator.errors import Detail, InvalidRequest
from triggers.models.events import EVENT_STATES
from triggers.selectors.events import EventFilter

EVENT_FILTERS: Final[Mapping[str, OpenApiParameter]] = {
    "type": query("type", "Type of the event; one that ends with * stands for all that begin so."),
    "source": query("source", "What it says it comes from, or the event source that received it."),
    "from": query("from", "Not received before this moment.", OpenApiTypes.DATETIME),
    "to": query("to", "Received before this moment.", OpenApiTypes.DATETIME),
    "state": query("state", "State, or several separated by commas: " + ", ".join(EVENT_STATES) + "."),
}


def event_filter(asked: Mapping[str, Any], *, within: str = "", search: str | None = None) -> EventFilter:
    """Read a filter of events; `within` is the path of the object that holds it. Raises InvalidRequest."""
    problems: list[Detail] = []

    def text(key: str) -> str | None:
        value = asked.get(key)
        if value is None or (isinstance(value, str) and 0 < len(value) <= 200):
            return value
        problems.append(Detail(within + key, quoted(value), "a text of 1 to 200 characters"))
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
        problems.append(Detail(within + key, quoted(value), "a moment such as 2027-01-31T06:00:00Z"))
        return None

    given = text("state")
    states = () if given is None else tuple(part.strip() for part in given.split(","))
    problems += [
        Detail(within + "state", quoted(state), "one of " + ", ".join(EVENT_STATES))
        for state in states
        if state not in EVENT_STATES
    ]
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
