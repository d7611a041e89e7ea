"""Make a batch durable: one transaction of keys, events, firings, runs and dead letters.

A batch that the database refuses for what one of its rows holds is halved until that row is alone; it becomes a dead
letter, the rest is written. Refused for any other reason, it is held.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.db import connection, transaction

from triggers.envelope import Problem
from triggers.ingest import crash
from triggers.ingest.batch import Infrastructure, Item, Prepared, Result, SourceView, Written
from triggers.ingest.budgets import note_budget_errors
from triggers.ingest.calls import start_calls
from triggers.ingest.counts import count_batch, count_results
from triggers.ingest.failures import JUDGED, is_connection_lost, is_data, is_victim, words_of
from triggers.ingest.firing import Draft, Fired, drafts_of, fire
from triggers.ingest.letters import Refused, store_letters
from triggers.ingest.stall import wrote
from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import NewEvent

logger = logging.getLogger(__name__)

#: More rows of one batch than these are not to blame: then we are broken, not they.
MOST_REJECTED: Final = 20
#: How often a transaction that others' were preferred to is tried at once.
TRIES: Final = 3

_NEVER: Final = datetime.min.replace(tzinfo=UTC)

Hook = Callable[[], None]


def write_batch(source: SourceView, prepared: Prepared, *, hook: Hook | None = None) -> Written:
    """Write a batch and return what became of it; see `Pipeline.write`."""
    began = time.perf_counter()
    batch = _Batch(source, hook)
    try:
        _write_whole(batch, sorted(prepared.items, key=_place))
    except Infrastructure:
        # What is durable already is found as duplicates when the batch is written again; its runs are these.
        prepared.launchable += batch.written.run_ids
        raise
    finally:
        seconds = time.perf_counter() - began
        wrote(seconds)
    written = batch.written
    if prepared.launchable:
        written.run_ids = sorted([*prepared.launchable, *written.run_ids])
        prepared.launchable = []
    if prepared.ignored:
        written.counts["ignored"] += prepared.ignored.total()
    count_batch(prepared, seconds)
    return written


def _write_whole(batch: _Batch, items: Sequence[Item]) -> None:
    try:
        batch.write(items, last=True)
    except Infrastructure:
        raise
    except Exception as error:  # unknown is not the messages' fault
        logger.exception("a batch could not be written")
        raise Infrastructure(f"{type(error).__name__}: {error}") from error


def _place(item: Item) -> tuple[str, int, int]:
    """Order by part and offset, as the transport has them; without offsets, as they came."""
    received = item.received
    off = received.off
    return (received.part, -1 if off is None else off, item.order)


class _Batch:
    """One batch while it is written, in one transaction or, once a row was refused, in several."""

    def __init__(self, source: SourceView, hook: Hook | None) -> None:
        self._source = source
        self._hook = hook
        self._rejected = 0
        self.written = Written()

    def write(self, items: Sequence[Item], *, last: bool) -> None:
        """Write items in their order; `last`: the batch ends with them."""
        try:
            made = self._committed(items, last=last)
        except JUDGED as error:
            if not is_data(error):
                raise Infrastructure(words_of(error)) from error
            if len(items) > 1:
                middle = len(items) // 2
                self.write(items[:middle], last=False)
                self.write(items[middle:], last=last)
                return
            self._reject(items, error, last=last)
            return
        self._keep(made)

    def _reject(self, items: Sequence[Item], error: BaseException, *, last: bool) -> None:
        if not items or items[0].problem is not None:
            # Nothing of the message's is left in it: this is us.
            raise Infrastructure(words_of(error)) from error
        self._rejected += 1
        if self._rejected > MOST_REJECTED:
            raise Infrastructure(f"more than {MOST_REJECTED} rows of one batch refused: {words_of(error)}") from error
        logger.warning("the database refused a message", extra={"reason": words_of(error)})
        items[0].problem = Problem("db_rejected", words_of(error))
        self.write(items, last=last)

    def _committed(self, items: Sequence[Item], *, last: bool) -> _Made:
        """Run the transaction, again at once where it fell to another or its connection had died while idle."""
        for attempt in range(1, TRIES + 1):
            try:
                with transaction.atomic():
                    made = _transaction(self._source, items)
                    if last and self._hook is not None:
                        self._hook()
                    crash.reached(crash.in_transaction)
                return made
            except JUDGED as error:
                if connection.in_atomic_block:
                    raise
                lost = is_connection_lost(error)
                if lost:
                    connection.close()
                if attempt == TRIES or not (is_victim(error) or (lost and attempt == 1)):
                    raise
                # Victims of one deadlock must not meet again in step.
                time.sleep(random.uniform(0.005, 0.02) * attempt)
        raise AssertionError("unreachable")

    def _keep(self, made: _Made) -> None:
        written = self.written
        written.run_ids += made.run_ids
        for item, result in made.results:
            written.counts[result.outcome] += 1
            written.results.setdefault(item.order, []).append(result)
        count_results(made.results, made.now)
        made.fired.count()
        if made.fired.over_budget and not connection.in_atomic_block:
            note_budget_errors(made.fired.over_budget, made.now)


class _Made:
    """What one transaction made; true only once it is committed."""

    __slots__ = ("fired", "now", "results", "run_ids")

    def __init__(self) -> None:
        self.results: list[tuple[Item, Result]] = []
        self.run_ids: list[int] = []
        self.fired = Fired()
        self.now: datetime = _NEVER


def _transaction(source: SourceView, items: Sequence[Item]) -> _Made:
    """Write items in the transaction that is open. Changes none of them but their event ids: it may be repeated."""
    made = _Made()
    letters: list[Refused] = [(item, item.problem) for item in items if item.problem is not None]
    keyed = [item for item in items if item.problem is None] if letters else items
    with connection.cursor() as cursor:
        do = statements()
        do.begin(cursor)
        now, event_ids, firing_ids = do.take_ids(
            cursor, events=len(keyed), firings=sum([len(item.fires) for item in keyed])
        )
        made.now = now
        if keyed:
            for item, event_id in zip(keyed, event_ids, strict=True):
                item.event_id = event_id
            new, refused = _new_items(cursor, keyed, made, now)
            letters += refused
            if new:
                letters += _write_new(cursor, source, new, firing_ids, made)
        if letters:
            store_letters(cursor, source, letters, now)
            made.results += [(item, Result("dead_letter", reason=problem.reason)) for item, problem in letters]
    return made


def _new_items(cursor: Any, items: Sequence[Item], made: _Made, now: datetime) -> tuple[Sequence[Item], list[Refused]]:
    """Insert the keys; return the items that are new, in order, and those whose key means something else already."""
    first: dict[bytes, Item] = {}
    for item in items:
        first.setdefault(item.key, item)
    # One order for all writers: in different ones they deadlock.
    new_ids = statements().insert_keys(cursor, sorted(first.values(), key=_by_key), now)
    if len(new_ids) == len(items):
        return items, []
    before = statements().known_keys(cursor, [key for key, item in first.items() if item.event_id not in new_ids])
    new: list[Item] = []
    refused: list[Refused] = []
    for item in items:
        if item.event_id in new_ids:
            new.append(item)
            continue
        owner = first[item.key]
        # A key that vanished in between was forgotten just now: what it meant is unknown, and this is its duplicate.
        event_id, sha = before.get(item.key, (owner.event_id, owner.sha))
        if sha == item.sha:
            made.results.append((item, Result("duplicate", event_id)))
        else:
            refused.append((item, _conflict(item, event_id)))
    return new, refused


def _by_key(item: Item) -> bytes:
    return item.key


def _conflict(item: Item, event_id: int) -> Problem:
    if item.call is not None:
        return Problem("refused:idempotency_mismatch", f"its messageId was another call's: event {event_id}")
    return Problem("conflict", f"the id of event {event_id}, which has another type or payload")


def _write_new(
    cursor: Any, source: SourceView, new: Sequence[Item], firing_ids: Sequence[int], made: _Made
) -> list[Refused]:
    """Write events, firings and runs of new keys, in order; return trigger calls that were refused."""
    events: list[NewEvent] = []
    drafts: list[Draft] = []
    calls: list[Item] = []
    for item in new:
        if item.call is not None:
            calls.append(item)
            continue
        if item.expired:
            state = "expired"
        elif item.fires:
            state = "matched"
            drafts += drafts_of(item)
        else:
            state = "no_match"
        events.append(NewEvent(item, state))
        made.results.append((item, Result(state, item.event_id)))
    if drafts:
        made.fired = fire(cursor, drafts, firing_ids, now=made.now)
        made.run_ids += made.fired.run_ids
    refused: list[Refused] = []
    if calls:
        for item, answer in start_calls(source, calls, made.now):
            if isinstance(answer, Problem):
                refused.append((item, answer))
                continue
            events.append(NewEvent(item, "matched"))
            made.run_ids.append(answer)
            made.results.append((item, Result("trigger_call", item.event_id, run_id=answer)))
        # A call that was refused has used up no key: sent again, it is asked again.
        statements().forget_keys(cursor, [item.key for item, _ in refused])
        events.sort(key=_by_id)
        made.run_ids.sort()
    if events:
        statements().insert_events(cursor, events, source_id=source.id, now=made.now)
    return refused


def _by_id(event: NewEvent) -> int:
    return event.item.event_id
