"""Runs of any size with tasks in every state, written without the engine: for pages and their figures."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any, Final

from django.utils import timezone

from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec
from orchestrator.models import Attempt, JobRun, Task, TaskRun, Tenant, Transition
from orchestrator.services.jobs import apply_definition
from orchestrator.states import TASK_FINAL, RunState, TaskState

_numbers = itertools.count(1)
#: Tasks of one layer: wide enough to be folded, and many layers of it.
WIDTH: Final = 25


def layered_spec(name: str, size: int) -> JobSpec:
    """`size` tasks in layers, each behind two of the layer before."""
    tasks = []
    for index in range(size):
        layer, place = divmod(index, WIDTH)
        before = {(place + shift) % WIDTH + (layer - 1) * WIDTH for shift in (0, 7)} if layer else set()
        tasks.append(
            TaskSpec(_name(index), "noop", depends_on=tuple(DependencySpec(_name(up)) for up in sorted(before)))
        )
    return JobSpec(name=name, tasks=tuple(tasks))


def large_run(
    tenant: Tenant, size: int, *, name: str | None = None, ended: bool = False, now: datetime | None = None
) -> JobRun:
    """A run of `size` tasks: the first part ended, some of it badly, then what runs, what is ready, what waits."""
    now = now or timezone.now()
    job = apply_definition(
        tenant=tenant, spec=layered_spec(name or f"large-{size}-{next(_numbers)}", size), source="", author="ada"
    ).job
    assert job.latest_version is not None
    began = now - timedelta(minutes=20)
    failed = ended and size > WIDTH
    run = JobRun.objects.create(
        tenant=tenant,
        job=job,
        version=job.latest_version,
        trigger_key=f"large:{job.pk}",
        trigger={"kind": "manual", "by": "user:ada"},
        parameters={"day": "2026-11-21", "password": {"secret": "warehouse"}},
        logical_date=began,
        created_at=began,
        started_at=began,
        state=(RunState.FAILED if failed else RunState.SUCCEEDED) if ended else RunState.RUNNING,
        reason="3 tasks failed" if failed else "",
        ended_at=now if ended else None,
    )
    ids = list(Task.objects.filter(version=job.latest_version).order_by("position").values_list("pk", flat=True))
    rows = [_row(run, position, ids[position], _state(position, size, ended), began) for position in range(size)]
    TaskRun.objects.bulk_create(rows, batch_size=500)
    Attempt.objects.bulk_create(
        (_attempt(row, number) for row in rows for number in range(1, row.attempt_count + 1)), batch_size=500
    )
    Transition.objects.bulk_create((_transition(row, began) for row in rows), batch_size=500)
    return run


def _name(index: int) -> str:
    return f"{('extract', 'clean', 'join', 'load')[index // WIDTH % 4]}_orders_{index}"


def _state(position: int, size: int, ended: bool) -> TaskState:
    part = position / max(size, 1)
    if ended or part < 0.5:
        if size > WIDTH and position in (WIDTH + 3, WIDTH + 9, WIDTH + 20):
            return (TaskState.FAILED, TaskState.TIMED_OUT, TaskState.FAILED)[position % 3]
        if size > WIDTH and position >= 2 * WIDTH and position % WIDTH in (3, 9, 20):
            return TaskState.UPSTREAM_FAILED
        return TaskState.SKIPPED if position % 31 == 30 else TaskState.SUCCEEDED
    if part < 0.53:
        return TaskState.RETRY_WAITING if position % 5 == 4 else TaskState.RUNNING
    return TaskState.READY if part < 0.6 else TaskState.WAITING


def _row(run: JobRun, position: int, task_id: int, state: TaskState, began: datetime) -> TaskRun:
    started = began + timedelta(seconds=position % 1000) if state not in (TaskState.READY, TaskState.WAITING) else None
    moments: dict[str, Any] = {"started_at": started, "ready_at": started or began}
    if state in (TaskState.UPSTREAM_FAILED, TaskState.SKIPPED):
        moments["started_at"] = None
    if state in TASK_FINAL:
        moments["ended_at"] = (started or began) + timedelta(seconds=3 + position % 90)
    if state == TaskState.RETRY_WAITING:
        moments["due_at"] = began + timedelta(minutes=30)
    reasons = {
        TaskState.FAILED: 'exit code 3: relation "orders" does not exist',
        TaskState.TIMED_OUT: "no end within 3600 s",
        TaskState.RETRY_WAITING: "exit code 75: connection refused",
        TaskState.UPSTREAM_FAILED: f"{_name(WIDTH + 3)} failed",
    }
    tries = {
        TaskState.FAILED: 3,
        TaskState.TIMED_OUT: 1,
        TaskState.SUCCEEDED: 1,
        TaskState.RUNNING: 1,
        TaskState.RETRY_WAITING: 2,
    }
    return TaskRun(
        run=run, position=position, task_id=task_id, state=state, reason=reasons.get(state, ""),
        attempt_count=tries.get(state, 0), worker="w1@host" if state in tries else "", **moments,
    )  # fmt: skip


def _attempt(row: TaskRun, number: int) -> Attempt:
    last = number == row.attempt_count
    state = {TaskState.RETRY_WAITING.value: "failed"}.get(row.state, row.state) if last else "failed"
    started = (row.started_at or row.ready_at or timezone.now()) + timedelta(seconds=number)
    return Attempt(
        task_run=row, number=number, token=number, state=state, worker="w1@host", started_at=started,
        ended_at=None if state == "running" else started + timedelta(seconds=2),
        reason=row.reason if state != "succeeded" else "", exit_code={"succeeded": 0, "failed": 3}.get(state),
    )  # fmt: skip


def _transition(row: TaskRun, began: datetime) -> Transition:
    return Transition(
        at=row.ended_at or row.started_at or began, subject="task_run", subject_id=row.pk, run_id=row.run_id,
        from_state="running" if row.state in TASK_FINAL else "waiting", to_state=row.state, reason=row.reason,
        cause="settle",
    )  # fmt: skip


__all__ = ["large_run", "layered_spec"]
