"""What a person asks of a task or of a run that has ended: skip, mark as succeeded, run again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from orchestrator.canvas import binding
from orchestrator.errors import (
    Detail,
    InvalidRequest,
    NothingToRerun,
    RunOpen,
    UnknownRun,
    UnknownTaskRun,
)
from orchestrator.ledger import admission, reruns, steering
from orchestrator.ledger.runs import INLINE_TASKS
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.planning.reruns import Parts
from orchestrator.services.audit import record_audit, record_run
from orchestrator.services.runs import StartedRun
from orchestrator.states import RUN_FINAL, TaskState
from orchestrator.store import BlobMissing, StoreError, store_of_process

log = logging.getLogger(__name__)

#: From where a re-run starts: everything, what did not come to a good end, or these tasks; each with its downstream.
Start = Literal["start", "failed"] | Sequence[str]
MARKS: Final = (TaskState.SUCCEEDED.value, TaskState.SKIPPED.value)


def skip_task(task_run_id: int, *, by: str, reason: str = "") -> TaskRun:
    """End a task that has not started as skipped. Safe to call twice.

    What depends on its success is skipped too; it counts as no failure. Raises UnknownTaskRun, TaskIsRunning,
    TaskFinal, RunFinal, RunNotRunning.
    """
    said = _reason("skipped", by=by, reason=reason)

    def then(row: TaskRun) -> None:
        _record(row, "task.skip", TaskState.SKIPPED, by=by, reason=reason)

    binding.publish(steering.close_task(task_run_id, TaskState.SKIPPED, by=by, reason=said, then=then))
    return _task_run(task_run_id)


def mark_task(task_run_id: int, *, by: str, reason: str = "") -> TaskRun:
    """End a task that has not started as succeeded, without a result. Safe to call twice.

    What depends on it goes on. Raises UnknownTaskRun, TaskIsRunning, TaskFinal, RunFinal, RunNotRunning.
    """
    said = _reason("marked as succeeded", by=by, reason=reason)

    def then(row: TaskRun) -> None:
        _record(row, "task.mark_succeeded", TaskState.SUCCEEDED, by=by, reason=reason)

    binding.publish(steering.close_task(task_run_id, TaskState.SUCCEEDED, by=by, reason=said, then=then))
    return _task_run(task_run_id)


def rerun(
    run_id: int,
    *,
    start: Start = "failed",
    mark: Mapping[str, str] | None = None,
    by: str,
    reason: str = "",
    once: bool = False,
) -> JobRun:
    """Run a run that has ended again, as a new run of the same version with the same parameters, event and date.

    `start` says from where: these tasks and all downstream of them run again, all others are taken over with their
    states and results. `mark` ends tasks as succeeded or skipped instead of running them. Each call makes another run;
    `once` refuses a run that was run again before. Raises UnknownRun, RunOpen, JobArchived, AlreadyRerun,
    NothingToRerun, and InvalidRequest for unknown tasks and marks.
    """
    return start_rerun(run_id, start=start, mark=mark or {}, by=by, reason=reason, once=once).run


def start_rerun(
    run_id: int,
    *,
    start: Start,
    mark: Mapping[str, str],
    by: str,
    reason: str = "",
    once: bool = False,
    trigger_key: str | None = None,
    guard: Mapping[str, str] | None = None,
) -> StartedRun:
    """The same, and with a `trigger_key` one run only, however often it is called; `guard` is kept in its trigger."""
    run = JobRun.objects.only("id", "state", "version_id", "job_id").filter(pk=run_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    version = compiled_version(run.version_id)
    trigger: dict[str, Any] = {
        "kind": reruns.KIND,
        "by": by,
        "of": run_id,
        "from": start if isinstance(start, str) else list(start),
        "mark": dict(mark),
        "reason": reason,
        **(guard or {}),
    }
    parts = check_rerun(run, trigger, version)

    def then(made: JobRun) -> None:
        asked = {"of": run_id, "from": trigger["from"], "mark": trigger["mark"]}
        record_run(made, "run.rerun", by=by, reason=reason, after=asked)

    made, created = reruns.insert_rerun(
        run_id, trigger=trigger, reason=reason, trigger_key=trigger_key, once=once, then=then
    )
    if created:
        _copy_results(run_id, made.pk, parts)
        if len(version.tasks) > INLINE_TASKS:
            binding.publish_launch([made.pk])
        else:
            binding.publish(admission.admit_job(run.job_id))
        made = JobRun.objects.select_related("job", "version").get(pk=made.pk)
    return StartedRun(made, created)


def check_rerun(run: JobRun, trigger: Mapping[str, Any], version: CompiledVersion) -> Parts:
    """Return what a re-run with this trigger repeats; raises RunOpen, InvalidRequest, NothingToRerun."""
    problems = _problems(trigger["from"], trigger["mark"], version)
    if problems:
        raise InvalidRequest(f"Run {run.pk} cannot be run again so.", details=tuple(problems))
    if run.state not in RUN_FINAL:
        raise RunOpen(f"Run {run.pk} is {run.state}; it can be run again once it has ended.")
    parts = reruns.parts_of_trigger(trigger, reruns.states_of_run(run.pk), version)
    if not parts.repeated and not parts.marked:
        raise NothingToRerun(f"No task of run {run.pk} failed; name the tasks to run again, or start from the start.")
    return parts


def _problems(start: Any, mark: Mapping[str, str], version: CompiledVersion) -> list[Detail]:
    problems = []
    if isinstance(start, str):
        if start not in ("start", "failed"):
            problems.append(Detail("from", start[:200], "start, failed, or a list of tasks"))
    elif not start and not mark:
        problems.append(Detail("from", [], "at least one task, or a mark"))
    else:
        problems += [
            Detail(f"from[{index}]", name[:200], "a task of the run's version")
            for index, name in enumerate(start)
            if name not in version.positions
        ]
    for name, state in mark.items():
        if name not in version.positions:
            problems.append(Detail(f"mark.{name[:200]}", name[:200], "a task of the run's version"))
        elif state not in MARKS:
            problems.append(Detail(f"mark.{name}", str(state)[:200], " or ".join(MARKS)))
    return problems


def _copy_results(of_run_id: int, run_id: int, parts: Parts) -> None:
    """Give a re-run copies of the large results that it carries: what is stored goes with its run.

    Where the store fails, or the process ends here, the re-run reads those of the old run, as long as that is kept.
    """
    rows = TaskRun.objects.filter(run_id=of_run_id).exclude(result_ref="").values_list("position", "result_ref")
    keys = sorted({key for position, key in rows if position in parts.carried})
    if not keys:
        return
    copies = {}
    try:
        store = store_of_process()
        for key in keys:
            copies[key] = store.put(run_id, store.get(key))
    except (StoreError, BlobMissing) as error:
        log.warning("results of a run not copied to its re-run", extra={"run": run_id, "reason": error.message})
    reruns.refer_to_copies(run_id, copies)


def _record(row: TaskRun, action: str, to: TaskState, *, by: str, reason: str) -> None:
    record_audit(
        action=action, subject="task_run", subject_id=row.pk,
        subject_name=f"{row.run.job.name} #{row.run_id} {row.task.name}", tenant_id=row.run.tenant_id, by=by,
        before={"state": row.state}, after={"state": to.value}, reason=reason,
    )  # fmt: skip


def _reason(done: str, *, by: str, reason: str) -> str:
    """The row says who and why: whoever reads it later does not look for its transition first."""
    return f"{done} by {by}" + (f": {reason}" if reason else "")


def _task_run(task_run_id: int) -> TaskRun:
    row = TaskRun.objects.select_related("task", "run__job").filter(pk=task_run_id).first()
    if row is None:
        raise UnknownTaskRun(f"There is no task run {task_run_id}.")
    return row
