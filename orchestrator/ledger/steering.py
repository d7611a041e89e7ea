"""A person ends one task of a running run: skipped, or marked as succeeded. What follows is planned at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.errors import RunFinal, RunNotRunning, TaskFinal, TaskIsRunning, UnknownTaskRun
from orchestrator.ledger import locks
from orchestrator.ledger.advance import Advanced, advance_run, plan_after
from orchestrator.ledger.finish import after_finish, finish_locked
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import RunRow
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import TaskRun
from orchestrator.states import RUN_FINAL, TASK_FINAL, RunState, TaskState

#: What a person may make of a task; the word is also the cause in its transition.
CAUSES: Final = {TaskState.SKIPPED: "skip", TaskState.SUCCEEDED: "mark"}

Verdict = Literal[TaskState.SKIPPED, TaskState.SUCCEEDED]


def close_task(task_run_id: int, to: Verdict, *, by: str, reason: str, then: Callable[[TaskRun], None]) -> list[Hint]:
    """End a task run that neither runs nor is final, free its locks, plan what follows; returns hints to publish.

    Locks the run, its task run, those downstream, then locks. Safe to call twice: one that already ended so stays as
    it is. `then` is called with the task run as it was, in the transaction that ends it. Raises UnknownTaskRun, TaskIsRunning, TaskFinal, RunFinal, RunNotRunning.
    """
    run_id = TaskRun.objects.filter(pk=task_run_id).values_list("run_id", flat=True).first()
    if run_id is None:
        raise UnknownTaskRun(f"There is no task run {task_run_id}.")
    run: RunRow | None = None
    finished = False

    def work() -> Advanced:
        nonlocal run, finished
        with connection.cursor() as cursor:
            # Before its tasks: a leaf may be the last one open, and a cancellation must not come in between.
            run = statements().lock_run(cursor, run_id=run_id)
            row = TaskRun.objects.select_for_update(of=("self",)).select_related("run", "task").get(pk=task_run_id)
            if run is None or row.state == to:
                return Advanced()
            _refuse(run, row)
            version = compiled_version(run.version_id)
            now = database_now()
            then(row)
            move_tasks([row], to, now=now, reason=reason, cause=CAUSES[to], by=by, planned_at=now)
            # A chord counts its headers by their messages, and one that waited for a retry has none under way: the
            # worker that gets this one finds the task over and counts it.
            header = hints_of([row]) if row.fragment_id is not None else []
            step = plan_after(cursor, run_id=run.id, version=version, settled={row.position: to})
            freed = locks.release_idle([row], now=now)
            finished = finish_locked(cursor, run)
            return Advanced((*header, *step.hints, *freed), step.closed, step.dead_end)

    step = in_transaction(work)
    hints = list(step.hints)
    if step.closed:
        hints += advance_run(run_id, headers=False)
    if finished and run is not None:
        hints += after_finish(run)
    return hints


def _refuse(run: RunRow, row: TaskRun) -> None:
    name = row.task.name
    if row.state == TaskState.RUNNING:
        raise TaskIsRunning(f"{name} runs: it cannot be ended by hand; cancel its run, or wait for its outcome.")
    if run.state in RUN_FINAL:
        raise RunFinal(f"Run {run.id} has already {run.state}.")
    if row.state in TASK_FINAL:
        raise TaskFinal(f"{name} has already ended {row.state}; a re-run can mark it.")
    if run.state != RunState.RUNNING or run.stop_state:
        raise RunNotRunning(f"Run {run.id} is being stopped." if run.stop_state else f"Run {run.id} is {run.state}.")
