"""Messages that come by HTTP: made durable now, answered then, their runs launched beside it."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from orchestrator.errors import UpbeatError
from triggers import rules_cache
from triggers.envelope import Problem, Received
from triggers.ingest.batch import Infrastructure, Item, Prepared, Result, SourceView
from triggers.ingest.launcher import Launcher
from triggers.ingest.pipeline import Pipeline

log = logging.getLogger(__name__)


class CannotReceive(UpbeatError):
    """Nothing can be received now; send it again."""

    code = "unavailable"
    status = 503
    retry_after_seconds = 5


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one event."""

    #: Of a duplicate, the id of the event that was first; None: it was refused.
    event_id: int | None
    duplicate: bool = False
    problem: Problem | None = None


def receive(source: SourceView, messages: Sequence[Received], now: datetime) -> list[Receipt]:
    """Make messages durable in one transaction and have their runs launched; one receipt for each event, in order.

    Raises CannotReceive when the database does not answer. Safe to call again: what was received is a duplicate then.
    """
    pipeline = Pipeline(source, cache=rules_cache.shared)
    try:
        return _written(pipeline, pipeline.prepare(messages, now))
    except Infrastructure as error:
        raise _refusal(error) from error


def put_aside(source: SourceView, message: Received, problem: Problem) -> Receipt:
    """Make a dead letter of a message that is authentic and yet no event. Raises CannotReceive."""
    item = Item(message, source.tenant_id, 0)
    item.problem = problem
    try:
        (receipt,) = _written(Pipeline(source, cache=rules_cache.shared), Prepared([item], 1))
    except Infrastructure as error:
        raise _refusal(error) from error
    return receipt


def _written(pipeline: Pipeline, prepared: Prepared) -> list[Receipt]:
    try:
        written = pipeline.write(prepared)
    except Infrastructure:
        # Of a batch that was halved a part may be durable: sent again it is a duplicate, and starts nothing.
        launcher().offer(prepared.launchable)
        raise
    launcher().offer(written.run_ids)
    problems: dict[int, list[Problem]] = {}
    for item in prepared.items:
        if item.problem is not None:
            problems.setdefault(item.order, []).append(item.problem)
    receipts = []
    for order in sorted(written.results):
        for result in written.results[order]:
            known = problems.get(order)
            receipts.append(_receipt(result, known.pop(0) if known and result.outcome == "dead_letter" else None))
    return receipts


def _receipt(result: Result, problem: Problem | None) -> Receipt:
    if result.outcome == "dead_letter":
        return Receipt(None, problem=problem or Problem(result.reason, _WORDS.get(result.reason, result.reason)))
    return Receipt(result.event_id, duplicate=result.outcome == "duplicate")


_WORDS = {
    "conflict": "another event has this id: the same id with another type or payload is not stored",
    "unknown_tenant": "the event belongs to no tenant of its source",
}


def _refusal(error: Infrastructure) -> CannotReceive:
    log.warning("messages cannot be received", extra={"reason": str(error)})
    return CannotReceive("The database does not answer; send it again.")


@cache
def launcher() -> Launcher:
    """Return the launcher of this process, which starts with the first call."""
    found = Launcher()
    atexit.register(found.close)
    return found
