"""A run comes into being: one row under a unique key, and its admission in the same transaction when it is cheap."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.errors import JobArchived
from orchestrator.ledger.admission import BATCH, JobRow, decide_locked, lock_job
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import NewRun
from orchestrator.ledger.transactions import in_transaction
from orchestrator.models import Job, JobRun, JobVersion
from orchestrator.planning.holds import JOB_PAUSED, KEY_TURN
from orchestrator.states import RunState

#: A larger DAG is admitted by a control worker: its rows would hold up the caller.
INLINE_TASKS = 200


@dataclass(frozen=True, slots=True)
class Inserted:
    """The run, whether this call made it, hints to publish after commit, and whether a control worker must admit it."""

    run: JobRun
    created: bool
    hints: tuple[Hint, ...] = ()
    launch_later: bool = False


#: Compiling the same query through the ORM took a third of a trigger call.
FIND_JOB = """
select j.id, j.archived_at is not null, j.concurrency_limit, v.id, v.number, v.task_count
  from orchestrator_job j join orchestrator_jobversion v on v.id = j.latest_version_id
 where j.tenant_id = %s and j.name = %s"""


def find_job(tenant_id: int, name: str) -> Job | None:
    """Return a job with its latest version, as far as starting a run needs them; None if there is none.

    Raises JobArchived.
    """
    with connection.cursor() as cursor:
        cursor.execute(FIND_JOB, [tenant_id, name])
        row = cursor.fetchone()
    if row is None:
        return None
    job_id, is_archived, limit, version_id, number, task_count = row
    if is_archived:
        raise JobArchived(f"The job {name!r} is archived; it starts no more runs.")
    version = JobVersion(pk=version_id, job_id=job_id, number=number, task_count=task_count)
    return Job(pk=job_id, tenant_id=tenant_id, name=name, concurrency_limit=limit, latest_version=version)


def insert_run(new: NewRun) -> Inserted:
    """Insert a pending run and decide its admission. The unique trigger key makes it exist once, however often called.

    Inside a transaction of the caller's, or one of its own.
    """
    return in_transaction(lambda: _insert(new))


def _insert(new: NewRun) -> Inserted:
    job = lock_job(new.job.pk, limit=new.job.concurrency_limit)
    with connection.cursor() as cursor:
        inserted = statements().insert_run(cursor, new=new, reason=JOB_PAUSED if job.is_paused else "")
    if inserted is None:
        run = JobRun.objects.get(tenant_id=new.job.tenant_id, trigger_key=new.trigger_key)
        return Inserted(run, created=False)
    run_id, created_at = inserted
    run = JobRun(
        pk=run_id,
        tenant_id=new.job.tenant_id,
        job=new.job,
        version=new.version,
        trigger_key=new.trigger_key,
        trigger=new.trigger,
        parameters=new.parameters,
        event=new.event,
        logical_date=new.logical_date,
        priority=new.priority,
        state=RunState.PENDING,
        reason=JOB_PAUSED if job.is_paused else "",
        created_at=created_at,
    )
    if job.is_paused:
        return Inserted(run, created=True)
    if new.version.task_count > INLINE_TASKS and job.when_full != "skip":
        return Inserted(run, created=True, launch_later=True)
    return Inserted(run, created=True, hints=tuple(_admit(job, run)))


def _admit(job: JobRow, run: JobRun) -> list[Hint]:
    if job.limit is None:
        return decide_locked(job, [run])
    # Older pending runs come first; the caller's run may be any of those that are let in.
    pending = JobRun.objects.filter(job_id=job.id, state=RunState.PENDING).exclude(reason=KEY_TURN)
    waiting = list(pending.order_by("priority", "id")[:BATCH])
    waiting = [run if other.pk == run.pk else other for other in waiting]
    return decide_locked(job, waiting if run in waiting else [*waiting, run])
