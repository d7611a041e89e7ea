"""Deletes ended runs with all that the ledger knows of them, a bounded batch in each transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from django.db import connection

from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import IdempotencyKey, JobRun, RateWindow
from orchestrator.states import RUN_FINAL, RUN_OPEN

#: Runs that are looked at with one query.
WINDOW: Final = 500
#: Task runs that one transaction deletes, beyond its first run: SQLite has one writer, and others wait for it.
BATCH_TASKS: Final = 2000
#: Keys that one transaction deletes.
BATCH_KEYS: Final = 1000

_TASK_RUNS = "(select id from orchestrator_taskrun where run_id in ({ids}))"
#: Whatever points at a row goes before it. A test compares this with the models.
_STATEMENTS: Final = (
    f"delete from orchestrator_lockrequest where task_run_id in {_TASK_RUNS}",
    f"delete from orchestrator_attempt where task_run_id in {_TASK_RUNS}",
    f"""update orchestrator_taskrun set carried_from_id = null
         where carried_from_id is not null and carried_from_id in {_TASK_RUNS}""",
    "delete from orchestrator_taskrun where run_id in ({ids})",
    "delete from orchestrator_fragment where run_id in ({ids})",
    "delete from orchestrator_transition where run_id in ({ids})",
    "delete from orchestrator_idempotencykey where run_id in ({ids})",
    "update orchestrator_jobrun set rerun_of_id = null where rerun_of_id in ({ids})",
    "delete from orchestrator_jobrun where id in ({ids})",
)


def old_runs(horizon: datetime, *, tenant_id: int | None = None) -> Iterator[list[int]]:
    """Yield the runs that ended before `horizon`, oldest first, in batches that one transaction may delete.

    Walks the primary key: old runs have small ids, so it reads hardly more than it yields. Ids follow the moments of
    creation but for neighbours, so it stops at a whole window of runs that were made after the horizon.
    """
    last, tasks = 0, 0
    batch: list[int] = []
    while True:
        rows = list(
            JobRun.objects.filter(pk__gt=last)
            .order_by("pk")
            .values_list("pk", "tenant_id", "state", "created_at", "ended_at", "version__task_count")[:WINDOW]
        )
        for run_id, tenant, state, _, ended_at, task_count in rows:
            if state not in RUN_FINAL or ended_at is None or ended_at >= horizon or tenant_id not in (None, tenant):
                continue
            if batch and tasks + task_count > BATCH_TASKS:
                yield batch
                batch, tasks = [], 0
            batch.append(run_id)
            tasks += task_count
        if len(rows) < WINDOW or all(created_at >= horizon for _, _, _, created_at, _, _ in rows):
            break
        last = rows[-1][0]
    if batch:
        yield batch


def prunable(run_ids: Sequence[int], horizon: datetime) -> list[int]:
    """Return those of the runs that nobody needs: ended before `horizon`, and no open re-run refers to them."""
    needed = JobRun.objects.filter(rerun_of__in=run_ids, state__in=RUN_OPEN).values_list("rerun_of", flat=True)
    ended = JobRun.objects.filter(pk__in=run_ids, state__in=RUN_FINAL, ended_at__lt=horizon)
    return sorted(set(ended.values_list("pk", flat=True)) - set(needed))


def delete_runs(run_ids: Sequence[int], horizon: datetime) -> list[int]:
    """Delete those of the runs that are prunable, and return them. Safe to repeat."""
    return in_transaction(lambda: _delete_runs(run_ids, horizon))


def _delete_runs(run_ids: Sequence[int], horizon: datetime) -> list[int]:
    # A re-run that is being made holds its source, which is passed over; with the rest locked no other can begin, so
    # whoever refers to them is seen by the next statement.
    locked = list(
        JobRun.objects.select_for_update(skip_locked=True)
        .filter(pk__in=run_ids)
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    chosen = prunable(locked, horizon)
    if chosen:
        places = ",".join(["%s"] * len(chosen))
        with connection.cursor() as cursor:
            for statement in _STATEMENTS:
                cursor.execute(statement.format(ids=places), chosen)
    return chosen


def delete_keys(before: datetime) -> int:
    """Delete a batch of idempotency keys of before that moment, and return how many."""
    keys = IdempotencyKey.objects.filter(created_at__lt=before).order_by("created_at").values("pk")[:BATCH_KEYS]
    return IdempotencyKey.objects.filter(pk__in=list(keys.values_list("pk", flat=True))).delete()[0]


def delete_rate_windows(before: datetime) -> int:
    """Forget the calls that tokens made before that moment, and return of how many tokens."""
    return RateWindow.objects.filter(minute__lt=int(before.timestamp()) // 60).delete()[0]


def gone(run_ids: Sequence[int]) -> list[int]:
    """Return those of the ids that were runs of this database once and are no more."""
    newest = JobRun.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    # An id above the newest is not ours to judge: the database may be an older copy.
    asked = {run_id for run_id in run_ids if run_id < newest}
    return sorted(asked - set(JobRun.objects.filter(pk__in=asked).values_list("pk", flat=True)))
