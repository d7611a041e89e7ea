"""The filters of events as the document has them: of the query of a list and of the body of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from orchestrator.api.bases import query
from triggers.models.events import EVENT_STATES

EVENT_FILTERS: Final[Mapping[str, OpenApiParameter]] = {
    "type": query("type", "Type of the event; one that ends with * stands for all that begin so."),
    "source": query("source", "What it says it comes from, or the event source that received it."),
    "from": query("from", "Not received before this moment.", OpenApiTypes.DATETIME),
    "to": query("to", "Received before this moment.", OpenApiTypes.DATETIME),
    "state": query("state", "State, or several separated by commas: " + ", ".join(EVENT_STATES) + "."),
}
