"""Many runs come into being at once: pending rows in the order given, each under its unique key, none of them admitted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from orchestrator.ledger.counts import count_started
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import RunRequest
from orchestrator.models import Job


@dataclass(frozen=True, slots=True)
class StartedId:
    """What became of a request: its run and whether this call made it, or why there is none.

    `reason` is `job_gone` or `job_archived`, else empty.
    """

    run_id: int | None
    created: bool
    reason: str = ""


def insert_runs(requests: Sequence[RunRequest]) -> list[StartedId]:
    """Insert pending runs inside the caller's transaction: one statement, whatever their number.

    Of requests with the same trigger key the first makes the run.
    """
    if not requests:
        return []
    refused = _refused({request.job_id for request in requests})
    wanted = [request for request in requests if request.job_id not in refused] if refused else requests
    known: dict[tuple[int, str], int] = {}
    with connection.cursor() as cursor:
        made = statements().insert_runs(cursor, requests=wanted) if wanted else {}
        if len(made) < len(wanted):
            keys = {(request.tenant_id, request.trigger_key) for request in wanted} - made.keys()
            known = statements().runs_by_key(cursor, keys=sorted(keys)) if keys else {}
    if made:
        count_started(len(made))
    found = []
    for request in requests:
        if request.job_id in refused:
            found.append(StartedId(None, False, refused[request.job_id]))
            continue
        key = (request.tenant_id, request.trigger_key)
        created = made.pop(key, None)
        if created is not None:
            known[key] = created
        found.append(StartedId(known[key], created is not None))
    return found


def _refused(job_ids: Collection[int]) -> dict[int, str]:
    """Return why jobs start no runs: gone or archived. The others cannot vanish before the transaction ends."""
    standing = _standing(job_ids)
    return {
        job_id: "job_gone" if job_id not in standing else "job_archived"
        for job_id in job_ids
        if job_id not in standing or standing[job_id] is not None
    }


def _standing(job_ids: Collection[int]) -> dict[int, datetime | None]:
    if connection.vendor != "postgresql":
        return dict(Job.objects.filter(pk__in=job_ids).values_list("pk", "archived_at"))
    with connection.cursor() as cursor:
        # The lock that the foreign keys of the rows take anyway: now, one that vanished is no error of the whole batch.
        cursor.execute(
            "select id, archived_at from orchestrator_job where id = any(%s) order by id for key share",
            [sorted(job_ids)],
        )
        return dict(cursor.fetchall())
