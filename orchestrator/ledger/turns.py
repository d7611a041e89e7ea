"""Whose turn is it? Runs of one admission key start strictly by id, so many of them at once as the key allows.

A run that must wait is marked with KEY_TURN, so that admission of its job steps over it; the end of a run before it
takes the mark away. Marks are set and taken under the key's lock, which is why no wake-up is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection

from orchestrator.ledger.transitions import move_run
from orchestrator.models import JobRun
from orchestrator.planning.holds import DROPPED, KEY_TURN
from orchestrator.states import RunState

#: Runs of one key that are looked at together.
BATCH = 100


def lock_keys(keys: Collection[UUID]) -> None:
    """Lock admission keys until the transaction ends, all callers in one order; SQLite has one writer anyway."""
    if not keys or connection.vendor != "postgresql":
        return
    numbers = sorted({(key.int >> 64) - (1 << 63) for key in keys})
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_advisory_xact_lock(k) from (select k from unnest(%s::bigint[]) as k order by k offset 0) as s",
            [numbers],
        )
        cursor.fetchall()


def whose_turn(pending: Sequence[JobRun], *, now: datetime) -> list[JobRun]:
    """Return those whose turn it is, runs of one key in the order of their ids; the keys are locked.

    Marks the others as waiting for their turn, or drops them where their rule says so. Sets `state` and `reason` of
    what it changes.
    """
    by_key: dict[UUID, list[JobRun]] = {}
    for run in pending:
        if run.admission_key is not None:
            by_key.setdefault(run.admission_key, []).append(run)
    if not by_key:
        return list(pending)
    turn: dict[int, JobRun] = {}
    held: list[JobRun] = []
    standings = _standings_of(by_key, most=max(run.admission_limit or 1 for runs in by_key.values() for run in runs))
    for key, runs in by_key.items():
        runs.sort(key=lambda run: run.pk)
        chosen = _turns_of(runs, *standings[key])
        turn.update((run.pk, run) for run in chosen)
        held += _step_back(key, [run for run in runs if run.pk not in turn], now=now)
    JobRun.objects.filter(pk__in=[run.pk for run in held], state=RunState.PENDING).update(reason=KEY_TURN)
    for run in held:
        run.reason = KEY_TURN
    # A key's runs take the places of one another: the one with the lowest id comes first, whatever its priority.
    queues = {key: iter([run for run in runs if run.pk in turn]) for key, runs in by_key.items()}
    return [
        run if run.admission_key is None else next(queues[run.admission_key])
        for run in pending
        if run.admission_key is None or run.pk in turn
    ]


def _turns_of(runs: Sequence[JobRun], running: int, first: Sequence[int]) -> list[JobRun]:
    """Return the first runs of a key, as many as may start, as far as `runs` has them without a gap.

    `running` of it run, and `first` are the ids of those that wait.
    """
    mine = {run.pk: run for run in runs}
    chosen: list[JobRun] = []
    for id in first:
        run = mine.get(id)
        if run is None or running + len(chosen) >= (run.admission_limit or 1):
            break
        chosen.append(run)
    return chosen


#: One look at each key by its index, however many runs of it wait.
_STANDINGS = """
select k.key,
       (select count(*) from orchestrator_jobrun where admission_key = k.key and state = 'running'),
       array(select id from orchestrator_jobrun where admission_key = k.key and state = 'pending' order by id limit %s)
  from unnest(%s::uuid[]) as k(key)"""


def _standings_of(keys: Collection[UUID], *, most: int) -> dict[UUID, tuple[int, list[int]]]:
    """Return of each key how many of it run, and the ids of the first that wait, `most` at most."""
    if connection.vendor != "postgresql":
        return {key: (_running(key), _first_pending(key, most)) for key in keys}
    with connection.cursor() as cursor:
        cursor.execute(_STANDINGS, [most, list(keys)])
        return {key: (running, list(first)) for key, running, first in cursor.fetchall()}


def _step_back(key: UUID, runs: Iterable[JobRun], *, now: datetime) -> list[JobRun]:
    """Drop those that would rather not run than wait; return the others, which wait."""
    waiting = []
    for run in runs:
        limit = run.admission_limit or 1
        # Those dropped before are pending no more.
        before = JobRun.objects.filter(admission_key=key, state=RunState.PENDING, pk__lt=run.pk)
        if run.admission_drop and _running(key) + before[:limit].count() >= limit:
            move_run(run, RunState.CANCELLED, now=now, reason=DROPPED, cause="admission")
        else:
            waiting.append(run)
    return waiting


def ripen(keys: Iterable[UUID]) -> list[tuple[int, int]]:
    """Take the mark from runs whose turn has come; returns (job, run) of each. The keys are locked.

    One without the mark comes first: whoever looks at it comes here again.
    """
    ripe: list[tuple[int, int]] = []
    for key in keys:
        running = _running(key)
        found: list[tuple[int, int]] = []
        pending = JobRun.objects.filter(admission_key=key, state=RunState.PENDING).order_by("pk")
        for id, job_id, reason, limit in pending.values_list("pk", "job_id", "reason", "admission_limit")[:BATCH]:
            if reason != KEY_TURN or running + len(found) >= (limit or 1):
                break
            found.append((job_id, id))
        if found:
            JobRun.objects.filter(pk__in=[id for _, id in found], reason=KEY_TURN).update(reason="")
            ripe += found
    return ripe


def front_of(key: UUID) -> tuple[int, list[int]] | None:
    """Return the job of a key's first pending run and the ids of those of it that come next; None if none waits."""
    first = (
        JobRun.objects.filter(admission_key=key, state=RunState.PENDING)
        .order_by("pk")
        .values_list("job_id", "admission_limit")
        .first()
    )
    if first is None:
        return None
    job_id, limit = first
    pending = JobRun.objects.filter(admission_key=key, state=RunState.PENDING)
    ids = pending.order_by("pk").values_list("pk", "job_id")[: limit or 1]
    return job_id, [id for id, job in ids if job == job_id]


def _running(key: UUID) -> int:
    return JobRun.objects.filter(admission_key=key, state=RunState.RUNNING).count()


def _first_pending(key: UUID, most: int) -> list[int]:
    pending = JobRun.objects.filter(admission_key=key, state=RunState.PENDING)
    return list(pending.order_by("pk").values_list("pk", flat=True)[:most])


#: Keys one after the other by their index, however many runs of each wait; of each the first one that waits.
_STALLED = """
with recursive keys(key) as (
    select (select admission_key from orchestrator_jobrun
             where admission_key is not null and state = 'pending' order by admission_key limit 1)
     union all
    select (select admission_key from orchestrator_jobrun
             where admission_key > keys.key and state = 'pending' order by admission_key limit 1)
      from keys where keys.key is not null
)
select k.key from keys k
  join orchestrator_jobrun r on r.id = (
       select id from orchestrator_jobrun
        where admission_key = k.key and state = 'pending' order by id limit 1)
 where k.key is not null and r.reason = %s
   and (select count(*) from orchestrator_jobrun o where o.admission_key = k.key and o.state = 'running')
       < coalesce(r.admission_limit, 1)
 limit %s"""


def stalled_keys(most: int) -> list[UUID]:
    """Return keys whose first run waits for a turn that has come: whoever ended the run before it died too early."""
    with connection.cursor() as cursor:
        cursor.execute(_STALLED, [KEY_TURN, most])
        return [key if isinstance(key, UUID) else UUID(key) for (key,) in cursor.fetchall()]
