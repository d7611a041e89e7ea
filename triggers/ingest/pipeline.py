"""The one pipeline of every channel: decode, match, write in one transaction. Only then may the transport be told.

pipeline = Pipeline(SourceView.of(source), cache=RuleCache())
prepared = pipeline.prepare(batch, timezone.now())      # CPU alone, and at most once a second a look at the rules
written = pipeline.write(prepared)                      # raises Infrastructure: hold, and write the same again
acknowledge(...)                                        # dead letters included
launcher.offer(written.run_ids)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from django.db import DatabaseError, InterfaceError, connection

from triggers.envelope import Policy, Received
from triggers.ingest import crash
from triggers.ingest.batch import Infrastructure, Prepared, SourceView, Written
from triggers.ingest.failures import is_connection_lost, words_of
from triggers.ingest.prepare import Preparer
from triggers.ingest.write import write_batch
from triggers.rules.match import RuleIndex

#: What `POST /api/v1/events` is: no stored source, the tenant is the token's.
API_POLICY = Policy(slug="api", id_policy="bodyhash")


class Rules(Protocol):
    """Where the rules come from: `rules_cache.RuleCache`, or fixed ones."""

    def current(self) -> RuleIndex: ...


class Pipeline:
    """The way of one source's messages into the ledger. `write` belongs to one thread at a time."""

    def __init__(self, source: SourceView | None, *, cache: Rules, tenant_id: int | None = None) -> None:
        """`source` None: the built-in `api`, whose events belong to `tenant_id`."""
        if source is None:
            assert tenant_id is not None, "events without a source need a tenant"
            source = SourceView(None, tenant_id, "api", "api", API_POLICY)
        self.source = source
        self._cache = cache
        self._preparer = Preparer(source)

    def prepare(self, batch: Sequence[Received], now: datetime, *, message_id: str | None = None) -> Prepared:
        """Decode and match. What a message holds is never an error: it becomes a dead letter of the batch.

        `message_id` replaces the ids of the messages: of a dead letter that is given to the rules after all.
        Raises Infrastructure when the rules are to be looked at and the database does not answer.
        """
        prepared = self._preparer.prepare(batch, self._rules(), now, message_id=message_id)
        crash.reached(crash.decoded)
        return prepared

    def _rules(self) -> RuleIndex:
        try:
            return self._cache.current()
        except (DatabaseError, InterfaceError) as error:
            if connection.in_atomic_block or not is_connection_lost(error):
                raise Infrastructure(f"the rules could not be read: {words_of(error)}") from error
        # A connection that died while it was idle shows only now: once more on a new one.
        connection.close()
        try:
            return self._cache.current()
        except (DatabaseError, InterfaceError) as error:
            raise Infrastructure(f"the rules could not be read: {words_of(error)}") from error

    def write(self, prepared: Prepared, *, hook: Callable[[], None] | None = None) -> Written:
        """Make a batch durable, at once as a whole where no row of it is refused. Safe to call again after any error.

        `hook` runs last inside the transaction that commits the end of the batch. A row that the database refuses for
        what it holds becomes a dead letter. Raises Infrastructure for everything else: then hold the batch and write
        it again; what was written before the error is found again as duplicates, its runs by the reconciler.
        """
        written = write_batch(self.source, prepared, hook=hook)
        crash.reached(crash.after_transaction)
        return written
