"""Which runs a call is about: read alike from the query of a list and from the body of a command on many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from orchestrator.api.bodies import quoted
from orchestrator.api.schema import query
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.selectors.runs import RunFilter
from orchestrator.states import RunState

RUN_FILTERS: Final[Mapping[str, OpenApiParameter]] = {
    "job": query("job", "Name of the job."),
    "tag": query("tag", "Runs of jobs with this tag."),
    "state": query("state", "State, or several separated by commas."),
    "trigger": query("trigger", "Kind of the trigger: api, manual, cli, schedule, rerun, event, message …"),
    "created_from": query("created_from", "Not before this moment.", OpenApiTypes.DATETIME),
    "created_to": query("created_to", "Before this moment.", OpenApiTypes.DATETIME),
    "rerun_of": query("rerun_of", "Re-runs of this run.", OpenApiTypes.INT),
}


def run_filter(asked: Mapping[str, Any], *, within: str = "") -> RunFilter:
    """Read a filter of runs; `within` is the path of the object that holds it. Raises InvalidRequest, with all problems.

    In JSON a state may be a list and a number a number; keys that are no filter are the caller's affair.
    """
    problems: list[Detail] = []

    def text(key: str) -> str | None:
        value = asked.get(key)
        if value is None or (isinstance(value, str) and len(value) <= 200):
            return value
        problems.append(Detail(within + key, quoted(value), "a text of at most 200 characters"))
        return None

    def moment(key: str) -> datetime | None:
        value = text(key)
        if value is None:
            return None
        try:
            # A `+` in a query is a blank unless it was encoded.
            found = parse_datetime(value.replace(" ", "+") if "T" in value else value)
        except ValueError:
            found = None
        if found is None:
            problems.append(Detail(within + key, quoted(value), "a moment such as 2027-01-31T06:00:00Z"))
            return None
        try:
            return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
        except OverflowError:
            problems.append(Detail(within + key, quoted(value), "a moment in UTC"))
            return None

    def states() -> tuple[str, ...]:
        value = asked.get("state")
        given = value if isinstance(value, list) else [] if (one := text("state")) is None else one.split(",")
        found = tuple(state.strip() if isinstance(state, str) else state for state in given)
        known = sorted(RunState)
        problems.extend(
            Detail(f"{within}state", quoted(state), "one of " + ", ".join(known))
            for state in found
            if state not in known
        )
        return found

    def number(key: str) -> int | None:
        value = asked.get(key)
        if value is None:
            return None
        shown = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
        if shown.isascii() and shown.isdigit() and len(shown) < 19:
            return int(shown)
        problems.append(Detail(within + key, quoted(value), "the id of a run"))
        return None

    chosen = RunFilter(
        job=text("job"),
        tag=text("tag"),
        states=states(),
        trigger_kind=text("trigger"),
        created_from=moment("created_from"),
        created_to=moment("created_to"),
        rerun_of=number("rerun_of"),
    )
    if problems:
        raise InvalidRequest(f"The {'body' if within else 'query'} has problems.", details=tuple(problems))
    return chosen
