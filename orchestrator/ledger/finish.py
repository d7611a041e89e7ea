"""The end of a run: when nothing of it is open, it gets its final state, and its job may admit the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.expressions.program import dependency_condition
from orchestrator.ledger.admission import admit_job, admit_key
from orchestrator.ledger.counts import count_ended
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import RunRow
from orchestrator.ledger.stops import stop_run_locked
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.planning.outcome import FailedTask, RunOutcome, outcome_of
from orchestrator.states import RUN_FINAL, RunState, TaskState


def finish_if_over(run_id: int, *, again: bool = False) -> list[Hint]:
    """Finish a run if none of its tasks is open; returns the hints of runs that this lets in. Safe to call twice.

    `again`: whoever finished it may not have lived to let the next one in.
    """

    def work() -> RunRow | None:
        with connection.cursor() as cursor:
            run = statements().lock_run(cursor, run_id=run_id)
            if run is None:
                return None
            return run if finish_locked(cursor, run) or (again and run.state in RUN_FINAL) else None

    finished = in_transaction(work)
    return after_finish(finished) if finished else []


def stop_run(
    run_id: int,
    *,
    state: RunState,
    reason: str,
    cause: str,
    by: str = "",
    then: Callable[[JobRun], None] | None = None,
) -> list[Hint]:
    """Stop a run and, if that ends it, let its job's next one in; returns hints to publish. Safe to call twice.

    `then` is called once, with the run as it was, in the transaction that first asks it to stop.
    """

    def work() -> tuple[list[Hint], RunRow | None]:
        if then is not None:
            run = JobRun.objects.select_for_update(of=("self",), no_key=True).get(pk=run_id)
            if run.state not in RUN_FINAL and run.stop_requested_at is None:
                then(run)
        hints = stop_run_locked(run_id, state=state, reason=reason, cause=cause, by=by)
        with connection.cursor() as cursor:
            return hints, statements().lock_run(cursor, run_id=run_id)

    hints, run = in_transaction(work)
    if run is not None and run.state not in (RunState.PENDING, RunState.RUNNING):
        hints = hints + after_finish(run)
    return hints


def finish_locked(cursor: Any, run: RunRow) -> bool:
    """Finish a run whose row the caller has locked, if it is running and none of its tasks is open.

    The lock is what makes two last tasks that settle at once see one another.
    """
    if run.state != RunState.RUNNING:
        return False
    is_open, has_failures = statements().standing(cursor, run_id=run.id)
    if is_open:
        return False
    if run.stop_state:
        outcome = RunOutcome(RunState(run.stop_state), run.stop_reason)
    elif has_failures:
        outcome = outcome_of(_failed_tasks(run.id, compiled_version(run.version_id)))
    else:
        outcome = RunOutcome(RunState.SUCCEEDED)
    if not statements().finish(cursor, run_id=run.id, state=outcome.state.value, reason=outcome.reason[:500]):
        return False
    count_ended(outcome.state)
    return True


def after_finish(run: RunRow) -> list[Hint]:
    """Let the next run of its key and of its job in; call after the commit that finished a run."""
    hints = [] if run.admission_key is None else admit_key(run.admission_key)
    if run.concurrency_limit is not None:
        hints += admit_job(run.job_id)
    return hints


def _failed_tasks(run_id: int, version: CompiledVersion) -> list[FailedTask]:
    rows = {
        position: (TaskState(state), result)
        for position, state, result in TaskRun.objects.filter(
            run_id=run_id, state__in=[TaskState.FAILED, TaskState.TIMED_OUT]
        )
        .order_by("position")
        .values_list("position", "state", "result")
    }
    recovering = {
        down
        for position in rows
        for down in version.graph.downstream[position]
        if any(e.upstream == position and e.recovers for e in version.graph.dependencies[down])
    }
    behind = dict(TaskRun.objects.filter(run_id=run_id, position__in=recovering).values_list("position", "state"))
    run: JobRun | None = None
    failed = []
    for position, (state, result) in rows.items():
        recoveries = []
        for down in version.graph.downstream[position]:
            for edge in version.graph.dependencies[down]:
                if edge.upstream != position or not edge.recovers or down not in behind:
                    continue
                if edge.when:
                    run = run or JobRun.objects.only("parameters", "event").get(pk=run_id)
                    name = version.graph.names[position]
                    values = {"params": run.parameters, "event": run.event, f"results.{name}": result}
                    if dependency_condition(edge.when, name).evaluate(values) is not True:
                        continue
                recoveries.append(TaskState(behind[down]))
        task = version.tasks[position]
        failed.append(FailedTask(task.name, state, task.allow_failure, tuple(recoveries)))
    return failed
