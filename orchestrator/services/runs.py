"""Start, launch, advance, cancel, pause and resume runs: what edges may ask of the ledger.

Every function writes first and publishes after its commit; a broker that is away fails none of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from orchestrator.canvas import binding
from orchestrator.errors import RunFinal, UnknownJob, UnknownRun
from orchestrator.ledger import admission, pauses, start
from orchestrator.ledger.advance import advance_run as plan_run
from orchestrator.ledger.counts import count_started
from orchestrator.ledger.finish import stop_run
from orchestrator.ledger.pending import cancel_pending, queued, unlaunched
from orchestrator.ledger.runs import Inserted, find_job, insert_run
from orchestrator.ledger.statements.rows import NewRun
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import JobRun, Tenant
from orchestrator.planning.holds import RULE_DELETED
from orchestrator.services.audit import is_person, record_audit, record_run
from orchestrator.services.batches import RunRequest, StartedId, Target, job_targets, resolve, resolve_for, start_runs
from orchestrator.states import RUN_FINAL, RunState

__all__ = [
    "RunRequest",
    "StartedId",
    "StartedRun",
    "Target",
    "admit_job",
    "advance_run",
    "cancel_pending_of_rule",
    "cancel_run",
    "expand_fragment",
    "job_targets",
    "launch_runs",
    "pause_run",
    "publish_launch",
    "queued_count",
    "resolve_for",
    "resume_run",
    "start_run",
    "start_runs",
    "unlaunched_count",
]

#: Ids in one query.
LAUNCHED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class StartedRun:
    """The run of a trigger, and whether this call made it."""

    run: JobRun
    created: bool


def start_run(
    *,
    tenant: Tenant,
    job_name: str,
    parameters: Mapping[str, Any],
    trigger: Mapping[str, Any],
    trigger_key: str | None = None,
    logical_date: datetime | None = None,
) -> StartedRun:
    """Start a run of a job's latest version; the same `trigger_key` starts one run only, however often it is called.

    Raises UnknownJob, JobArchived, InvalidParameters. A paused job's run stays pending. What a person starts is
    recorded; of what else starts a run the run itself keeps the trigger.
    """
    job = find_job(tenant.pk, job_name)
    if job is None or job.latest_version is None:
        raise UnknownJob(f"There is no job {job_name!r}.")
    version = compiled_version(job.latest_version.pk)
    logical_date = logical_date or timezone.now()
    new = NewRun(
        job=job,
        version=job.latest_version,
        trigger_key=trigger_key or f"call:{uuid.uuid4()}",
        trigger=trigger,
        parameters=resolve(version.spec.parameters, tenant, parameters, logical_date),
        event=None,
        logical_date=logical_date,
        priority=version.priority,
    )
    by = str(trigger.get("by", ""))
    inserted = in_transaction(lambda: _insert_for_person(new, by)) if is_person(by) else insert_run(new)
    if inserted.created:
        count_started()
    binding.publish(inserted.hints)
    if inserted.launch_later:
        binding.publish_launch([inserted.run.pk])
    return StartedRun(inserted.run, inserted.created)


def launch_runs(run_ids: Sequence[int]) -> int:
    """Look at pending runs of any jobs: each starts, ends, or gets the reason why it waits. Safe to call twice.

    Returns how many hints went out, those of older runs that this let in among them.
    """
    by_job: dict[int, list[int]] = {}
    for first in range(0, len(run_ids), LAUNCHED_AT_ONCE):
        pending = JobRun.objects.filter(pk__in=run_ids[first : first + LAUNCHED_AT_ONCE], state=RunState.PENDING)
        for run_id, job_id in pending.order_by("pk").values_list("pk", "job_id"):
            by_job.setdefault(job_id, []).append(run_id)
    hints: list[binding.Hint] = []
    count = 0
    for job_id, ids in by_job.items():
        # Not all at the end: whoever came first shall not wait for the last.
        for first in range(0, len(ids), admission.BATCH):
            hints += admission.admit_runs(job_id, ids[first : first + admission.BATCH])
            if len(hints) >= admission.BATCH:
                binding.publish(hints)
                count += len(hints)
                hints = []
    binding.publish(hints)
    return count + len(hints)


def publish_launch(run_ids: Sequence[int]) -> bool:
    """Ask control workers to launch runs, a hint for 500 of them; False if the broker refused: the reconciler does it
    then. Safe to call twice; never raises for a broker that is away.
    """
    for first in range(0, len(run_ids), LAUNCHED_AT_ONCE):
        if not binding.publish_launch(run_ids[first : first + LAUNCHED_AT_ONCE]):
            return False
    return True


def unlaunched_count() -> tuple[int, float]:
    """Return how many pending runs nobody has looked at yet, and the age of the oldest in seconds (0: none)."""
    return unlaunched()


def queued_count(most: int) -> int:
    """Return how many runs are pending, held ones too; one more than `most` says that there are more."""
    return queued(most)


def cancel_pending_of_rule(*, tenant_id: int, rule_id: int, by: str) -> int:
    """End the runs of a deleted rule that have not started: `cancelled (rule_deleted)`; returns how many.

    `rule_id` is the number in their trigger keys. Those that run go on. Inside a transaction of the caller's it is
    part of that one. Safe to call twice.
    """
    return cancel_pending(tenant_id, prefix=f"rule:{rule_id}:", reason=RULE_DELETED, by=by)


def advance_run(run_id: int) -> int:
    """Plan what became final in a run; returns how many hints went out. Safe to call twice."""
    hints = plan_run(run_id)
    binding.publish(hints)
    return len(hints)


def expand_fragment(fragment_id: int, low: int, high: int) -> int:
    """Publish a slice of a wide chord; returns how many headers went out. Safe to call twice."""
    hints = start.expand_fragment(fragment_id, low, high)
    binding.publish(hints)
    return len(hints)


def cancel_run(run_id: int, *, by: str, reason: str = "") -> JobRun:
    """Cancel a run: what does not run ends at once, running attempts are asked to stop. Safe to call twice.

    Raises UnknownRun, and RunFinal for a run that ended otherwise.
    """
    _refuse_ended(_run(run_id))

    def then(run: JobRun) -> None:
        record_run(run, "run.cancel", by=by, reason=reason, before={"state": run.state}, after={"stop": "cancelled"})

    said = reason or f"cancelled by {by}"
    binding.publish(stop_run(run_id, state=RunState.CANCELLED, reason=said, cause="cancel", by=by, then=then))
    # It may have ended between the look and the stop: then nothing was cancelled.
    return _refuse_ended(_run(run_id))


def pause_run(run_id: int, *, by: str, reason: str = "") -> JobRun:
    """Hold a run: running tasks finish, no further one is claimed. Safe to call twice. Raises UnknownRun, RunFinal."""
    if _run(run_id).state in RUN_FINAL:
        raise RunFinal(f"Run {run_id} has already ended.")

    def then(run: JobRun) -> None:
        record_run(run, "run.pause", by=by, reason=reason, before={"paused": False}, after={"paused": True})

    pauses.pause_run(run_id, by=by, reason=reason, then=then)
    run = _run(run_id)
    if run.state in RUN_FINAL and run.paused_at is None:
        raise RunFinal(f"Run {run_id} has already ended.")
    return run


def resume_run(run_id: int, *, by: str, reason: str = "") -> JobRun:
    """Let a held run go on and publish its ready tasks. Safe to call twice. Raises UnknownRun, RunFinal."""
    if _run(run_id).state in RUN_FINAL:
        raise RunFinal(f"Run {run_id} has already ended.")

    def then(run: JobRun) -> None:
        record_run(run, "run.resume", by=by, reason=reason, before={"paused": True}, after={"paused": False})

    binding.publish(pauses.resume_run(run_id, by=by, reason=reason, then=then))
    return _run(run_id)


def admit_job(job_id: int) -> None:
    """Let in the pending runs of a job: after a resume or a change of its limit."""
    binding.publish(admission.admit_job(job_id))


def _insert_for_person(new: NewRun, by: str) -> Inserted:
    inserted = insert_run(new)
    if inserted.created:
        # Secrets stand in the parameters by their names alone.
        started = {"job": new.job.name, "version": new.version.number, "parameters": dict(new.parameters)}
        record_audit(
            action="run.start", subject="run", subject_id=inserted.run.pk,
            subject_name=f"{new.job.name} #{inserted.run.pk}", tenant_id=new.job.tenant_id, by=by, after=started,
            reason=str(new.trigger.get("reason", "")),
        )  # fmt: skip
    return inserted


def _refuse_ended(run: JobRun) -> JobRun:
    if run.state in RUN_FINAL and run.state != RunState.CANCELLED:
        raise RunFinal(f"Run {run.pk} has already {run.state}.")
    return run


def _run(run_id: int) -> JobRun:
    run = JobRun.objects.select_related("job", "version").filter(pk=run_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    return run
