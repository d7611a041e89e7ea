"""How long the past is kept: runs with their logs and results, idempotency keys, counts of calls.

The database goes first and the store follows, so no run ever points at a result that is gone. What a process leaves in
the store by dying in between, the next sweep takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import Error, connection

from orchestrator.conf import options
from orchestrator.errors import Detail, InvalidRequest, UpbeatError
from orchestrator.ledger import pruning
from orchestrator.ledger.transitions import database_now
from orchestrator.models import Tenant
from orchestrator.services.audit import record_audit
from orchestrator.services.idempotency import KEY_LIVES
from orchestrator.store import Store, store_of_process

logger = logging.getLogger(__name__)

#: Within its 24 hours an idempotency key must find its run.
LEAST_AGE: Final = KEY_LIVES
RATE_WINDOWS_LIVE: Final = timedelta(hours=1)
#: Between two looks of a process that prunes by itself, and between two sweeps of the store.
PRUNE_EVERY_SECONDS: Final = 300.0
SWEEP_EVERY_SECONDS: Final = 86_400.0
#: Of each batch's time, so long nothing is asked of the database: pruning is in no hurry, runs are.
REST: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be. `swept`: runs that only the store still knew."""

    runs: int = 0
    idempotency_keys: int = 0
    swept: int = 0


def prune_runs(
    *,
    older_than: timedelta,
    tenant: Tenant | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    by: str = "",
    store: Store | None = None,
    after_batch: Callable[[float], bool] = lambda seconds: True,
) -> int:
    """Delete runs that ended longer ago than `older_than`, with all that belongs to them; return how many.

    Never an open run, nor one that an open re-run refers to. Each batch is a transaction of its own: it may be stopped
    at any moment and repeated. A person who asks for it is named by `by`, and recorded. `after_batch` gets the seconds a batch took and says whether to go on. Raises
    InvalidRequest for less than a day, and StoreError, before anything is deleted if the store cannot be used at all.
    """
    if older_than < LEAST_AGE:
        raise InvalidRequest(
            "Runs of the last 24 hours are kept: an idempotency key must find its run.",
            details=(Detail("older_than", str(older_than), "1 day or more"),),
        )
    horizon = database_now() - older_than
    store = store or store_of_process()
    if not dry_run:
        store.probe()
    count = 0
    for batch in pruning.old_runs(horizon, tenant_id=tenant.pk if tenant else None):
        if limit is not None:
            batch = batch[: limit - count]
        started = time.monotonic()
        if dry_run:
            deleted = pruning.prunable(batch, horizon)
        else:
            deleted = pruning.delete_runs(batch, horizon)
            store.delete_runs(deleted)
        count += len(deleted)
        if count == limit or not after_batch(time.monotonic() - started):
            break
    if by and count and not dry_run:
        record_audit(
            action="run.prune", subject="run", tenant_id=tenant.pk if tenant else None, by=by,
            before={"ended_before": horizon, "runs": count}, after=None,
        )  # fmt: skip
    return count


def prune_keys() -> int:
    """Delete idempotency keys past their 24 hours and counts of calls long ago; returns how many keys."""
    now = database_now()
    count = 0
    while deleted := pruning.delete_keys(now - KEY_LIVES):
        count += deleted
    pruning.delete_rate_windows(now - RATE_WINDOWS_LIVE)
    return count


def sweep_store(store: Store | None = None) -> int:
    """Delete from the store what belongs to runs that are gone; returns of how many runs. Safe to repeat."""
    store = store or store_of_process()
    count = 0
    for run_ids in store.run_ids():
        # Listed first and asked for then: a run that began in between is known by now.
        if gone := pruning.gone(run_ids):
            store.delete_runs(gone)
            count += len(gone)
    return count


class Pruner:
    """Prunes as UPBEAT_RUN_RETENTION_DAYS says: a thread of every beat, at work while its beat leads. In no hurry.

    Two at once, while the lead changes, delete nothing twice.
    """

    def __init__(self, leads: Callable[[], bool]) -> None:
        self._leads = leads
        self._stop = threading.Event()
        self._swept_at: float | None = None

    def run(self) -> None:
        """Prune every few minutes until `stop`; a database or store that is away ends nothing."""
        while not self._stop.wait(PRUNE_EVERY_SECONDS):
            if self._leads():
                self.prune()
                # It is not needed again for minutes.
                connection.close()

    def stop(self) -> None:
        self._stop.set()

    def prune(self) -> Pruned:
        """Prune once; returns what was deleted."""
        try:
            return self._prune()
        except Error as error:
            logger.warning("pruning: database away", extra={"error": str(error).splitlines()[0]})
        except UpbeatError as error:
            # What it deleted from the database alone is swept once the store is back.
            self._swept_at = None
            logger.warning("pruning: store away", extra={"error": error.message})
        except Exception:
            # The loop outlives a defect in one step.
            logger.exception("pruning failed")
        return Pruned()

    def _prune(self) -> Pruned:
        keys, runs, swept = prune_keys(), 0, 0
        days: int = options().run_retention_days
        if days:
            runs = prune_runs(older_than=timedelta(days=days), after_batch=self._rest)
            now = time.monotonic()
            if self._swept_at is None or now - self._swept_at >= SWEEP_EVERY_SECONDS:
                swept = sweep_store()
                self._swept_at = now
        if runs or swept:
            logger.info("pruned", extra={"runs": runs, "swept": swept})
        return Pruned(runs, keys, swept)

    def _rest(self, seconds: float) -> bool:
        return not self._stop.wait(seconds * REST) and self._leads()
