"""A run that has ended is run again as a new run: which tasks wait anew, which are taken over as they ended.

The new run is inserted pending, as any other, and admission lets it in; what it repeats is stored in its trigger and
worked out from the task runs of the old run, which change no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.errors import AlreadyRerun, JobArchived, RunOpen
from orchestrator.ledger.advance import plan_after
from orchestrator.ledger.counts import count_started
from orchestrator.ledger.finish import finish_locked
from orchestrator.ledger.start import start_tasks
from orchestrator.ledger.statements import statements
from orchestrator.ledger.steering import CAUSES
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks, record
from orchestrator.ledger.versions import CompiledVersion
from orchestrator.models import Job, JobRun, TaskRun
from orchestrator.planning.holds import JOB_PAUSED
from orchestrator.planning.reruns import Parts, Start, parts_of
from orchestrator.states import RUN_FINAL, RunState, TaskState

KIND: Final = "rerun"


def insert_rerun(
    run_id: int,
    *,
    trigger: Mapping[str, Any],
    reason: str,
    trigger_key: str | None,
    once: bool,
    then: Callable[[JobRun], None],
) -> tuple[JobRun, bool]:
    """Insert the pending re-run of a run, and say whether this call made it. It is not admitted yet.

    Without `trigger_key` each call makes another one, numbered; with one, the first. `once` refuses a run that has a
    re-run. `then` is called with the re-run in the transaction that makes it. Locks the job, then the run, so that of two at once each gets its number, or the second is refused. Raises
    RunOpen, JobArchived, AlreadyRerun.
    """

    def work() -> tuple[JobRun, bool]:
        job_id = JobRun.objects.values_list("job_id", flat=True).get(pk=run_id)
        job = Job.objects.select_for_update(no_key=True).get(pk=job_id)
        of = JobRun.objects.select_for_update(of=("self",), no_key=True).get(pk=run_id)
        known = JobRun.objects.filter(tenant_id=of.tenant_id, trigger_key=trigger_key).first() if trigger_key else None
        if known is not None:
            return known, False
        if job.archived_at is not None:
            raise JobArchived(f"The job {job.name!r} is archived; it starts no more runs.")
        if of.state not in RUN_FINAL:
            raise RunOpen(f"Run {run_id} is {of.state}; it can be run again once it has ended.")
        before = list(JobRun.objects.filter(rerun_of=of).order_by("id").values_list("id", "trigger_key"))
        if once and before:
            raise AlreadyRerun(f"Run {run_id} has been run again as run {before[-1][0]}.")
        now = database_now()
        held = JOB_PAUSED if job.paused_at else ""
        run, created = JobRun.objects.get_or_create(
            tenant_id=of.tenant_id,
            trigger_key=trigger_key or f"{KIND}:{run_id}:{_next(run_id, [key for _, key in before])}",
            defaults={
                "job_id": of.job_id,
                "version_id": of.version_id,
                "trigger": dict(trigger),
                "parameters": of.parameters,
                "event": of.event,
                "logical_date": of.logical_date,
                "priority": of.priority,
                "reason": held,
                "created_at": now,
                "rerun_of": of,
            },
        )
        if created:
            record(
                subject="run", subject_id=run.pk, run_id=run.pk, old="", new=RunState.PENDING, now=now, cause=KIND,
                reason=reason or f"re-run of run {run_id}", by=str(trigger.get("by", "")),
            )  # fmt: skip
            count_started()
            then(run)
        return run, created

    return in_transaction(work)


def _next(run_id: int, keys: Collection[str]) -> int:
    """The number after the highest: a count would repeat one once an old re-run was pruned."""
    numbers = [int(last) for key in keys if (last := key.removeprefix(f"{KIND}:{run_id}:")).isdigit()]
    return max(numbers, default=0) + 1


def states_of_run(run_id: int) -> dict[int, TaskState]:
    """Return the states of a run's tasks by position; empty if it was never admitted."""
    rows = TaskRun.objects.filter(run_id=run_id).order_by("position").values_list("position", "state")
    return {position: TaskState(state) for position, state in rows}


def parts_of_trigger(trigger: Mapping[str, Any], states: Mapping[int, TaskState], version: CompiledVersion) -> Parts:
    """Work out what a re-run with this trigger repeats."""
    start: Start = trigger["from"]
    return parts_of(
        version.graph,
        states,
        start=start if isinstance(start, str) else [version.positions[str(name)] for name in start],
        marks={version.positions[name]: TaskState(state) for name, state in trigger["mark"].items()},
    )


def refer_to_copies(run_id: int, copies: Mapping[str, str]) -> None:
    """Let a re-run read the large results it carries from copies of its own, old key → new key. Safe to call twice.

    Whether its task runs exist already or not: admission does it for those that come later.
    """

    def work() -> None:
        run = JobRun.objects.select_for_update(of=("self",), no_key=True).get(pk=run_id)
        JobRun.objects.filter(pk=run_id).update(trigger={**run.trigger, "copies": dict(copies)})
        _point(run_id, copies)

    in_transaction(work)


def start_rerun(cursor: Any, run: JobRun, version: CompiledVersion) -> list[Hint]:
    """Insert the task runs of an admitted re-run and start those whose dependencies are open; returns their hints.

    Inside the transaction of its admission. One in which nothing is left to run is final on return, in `run` too.
    """
    assert run.rerun_of_id is not None
    states = states_of_run(run.rerun_of_id)
    parts = parts_of_trigger(run.trigger, states, version)
    now = database_now()
    # Carried ones first: nothing upstream of them is open, so ids stay topological among all that is ever locked.
    cursor.execute(
        _CARRY.format(_among()),
        {
            "run": run.pk,
            "of": run.rerun_of_id,
            "positions": _positions(parts.carried),
            "now": connection.ops.adapt_datetimefield_value(now),
            "carried": f"carried from run {run.rerun_of_id}",
        },
    )
    cursor.execute(
        _WAIT.format(_among()),
        {
            "run": run.pk,
            "version": run.version_id,
            "positions": _positions(parts.repeated | parts.marked.keys()),
        },
    )
    _point(run.pk, run.trigger.get("copies", {}))
    _mark(run, parts, now)

    ended = {position: states[position] for position in parts.carried} | dict(parts.marked)
    settled = {
        position: state
        for position, state in ended.items()
        if any(down in parts.repeated for down in version.graph.downstream[position])
    }
    roots = [position for position in version.graph.roots if position in parts.repeated]
    hints = start_tasks(cursor, run_id=run.pk, version=version, ready=roots) if roots else []
    while settled:
        step = plan_after(cursor, run_id=run.pk, version=version, settled=settled)
        hints += step.hints
        # What it closed closes more, level by level.
        closed = TaskRun.objects.filter(run=run, ended_at__isnull=False, planned_at=None)
        settled = {position: TaskState(state) for position, state in closed.values_list("position", "state")}
        closed.update(planned_at=now)
    row = statements().lock_run(cursor, run_id=run.pk)
    if row is not None and finish_locked(cursor, row):
        run.state = JobRun.objects.values_list("state", flat=True).get(pk=run.pk)
    return hints


def _mark(run: JobRun, parts: Parts, now: Any) -> None:
    by = str(run.trigger.get("by", ""))
    why = str(run.trigger.get("reason", ""))
    for to, cause in CAUSES.items():
        positions = [position for position, state in parts.marked.items() if state == to]
        rows = list(TaskRun.objects.filter(run=run, position__in=positions).order_by("id")) if positions else []
        said = f"{'skipped' if to == TaskState.SKIPPED else 'marked as succeeded'} by {by}" + (
            f": {why}" if why else ""
        )
        move_tasks(rows, to, now=now, reason=said, cause=cause, by=by, planned_at=now)


def _point(run_id: int, copies: Mapping[str, str]) -> None:
    for old, new in copies.items():
        TaskRun.objects.filter(run_id=run_id, result_ref=old).update(result_ref=new)


def _positions(positions: Collection[int]) -> Any:
    ordered = sorted(positions)
    return ordered if connection.vendor == "postgresql" else json.dumps(ordered)


def _among() -> str:
    if connection.vendor == "postgresql":
        return "= any(%(positions)s::int[])"
    return "in (select value from json_each(%(positions)s))"


# Without transitions: nothing happened to them here. They point at the task run that was really executed.
_CARRY = """
insert into orchestrator_taskrun
       (run_id, position, task_id, state, reason, fencing_token, attempt_count, lost_count, open_upstreams, lock_count,
        hint_count, worker, stop_reason, result, result_ref, ended_at, planned_at, carried_from_id)
select %(run)s, o.position, o.task_id, o.state,
       case when o.carried_from_id is not null then o.reason when o.reason = '' then %(carried)s
            else substr(%(carried)s || ': ' || o.reason, 1, 500) end,
       0, 0, 0, 0, o.lock_count, 0, '', '', o.result, o.result_ref, %(now)s, %(now)s, coalesce(o.carried_from_id, o.id)
  from orchestrator_taskrun o where o.run_id = %(of)s and o.position {}
 order by o.position"""

_WAIT = """
insert into orchestrator_taskrun
       (run_id, position, task_id, state, reason, fencing_token, attempt_count, lost_count, open_upstreams, lock_count,
        hint_count, worker, stop_reason, result_ref)
select %(run)s, position, id, 'waiting', '', 0, 0, 0, upstream_count, lock_count, 0, '', '', ''
  from orchestrator_task where version_id = %(version)s and position {}
 order by position"""
