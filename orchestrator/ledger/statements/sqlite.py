"""The hot statements on SQLite: the same names and meanings as in `postgresql`, through the ORM.

Every caller is inside a transaction that began IMMEDIATE, so there is one writer at a time: what is read here cannot
change before it is written, and no row locks exist or are needed. `now` is the host's clock, which on SQLite
is the database's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F
from django.utils import timezone

from orchestrator.ledger.statements.rows import Claimed, Closing, Ending, NewRun, RunRow, Start
from orchestrator.models import Attempt, Job, JobRun, LockRequest, Task, TaskRun, Transition
from orchestrator.states import TASK_OPEN, TaskState


def database_now(cursor: Any) -> datetime:
    """Return the present moment: one host, one clock."""
    return timezone.now()


def claim(
    cursor: Any, *, task_run_id: int, worker: str, lease_seconds: float, row_is_locked: bool = False
) -> Claimed | None:
    now = timezone.now()
    row = TaskRun.objects.select_related("run", "task").filter(pk=task_run_id).first()
    if row is None or row.run.state != "running" or row.run.paused_at or row.run.stop_requested_at:
        return None
    due = row.state == TaskState.RETRY_WAITING and row.due_at is not None and row.due_at <= now
    if row.state != TaskState.READY and not due:
        return None
    if row.lock_count:
        held = LockRequest.objects.filter(task_run=row, granted_at__isnull=False, release_at__isnull=True)
        if held.count() < row.lock_count:
            return None
    token, number = row.fencing_token + 1, row.attempt_count + 1
    TaskRun.objects.filter(pk=row.pk).update(
        state=TaskState.RUNNING,
        fencing_token=token,
        attempt_count=number,
        lease_until=now + timedelta(seconds=lease_seconds),
        deadline_at=now + timedelta(seconds=row.task.timeout_seconds),
        started_at=row.started_at or now,
        worker=worker,
        reason="",
    )
    attempt = Attempt.objects.create(task_run_id=row.pk, number=number, token=token, worker=worker, started_at=now)
    _record(row.pk, row.run_id, row.state, TaskState.RUNNING, now, cause="claim", by=worker)
    since = row.due_at or row.ready_at or now
    return Claimed(
        run_id=row.run_id,
        task_run_id=row.pk,
        position=row.position,
        token=token,
        number=number,
        attempt_id=attempt.pk,
        version_id=row.run.version_id,
        fragment_id=row.fragment_id,
        lock_count=row.lock_count,
        timeout_seconds=row.task.timeout_seconds,
        waited_seconds=(now - since).total_seconds(),
    )


def settle(cursor: Any, *, task_run_id: int, token: int, worker: str, ending: Ending) -> bool:
    now = timezone.now()
    final = ending.delay_seconds is None
    rows = TaskRun.objects.filter(pk=task_run_id, fencing_token=token, state=TaskState.RUNNING)
    if not final:
        rows = rows.filter(stop_requested_at__isnull=True)
    fields: dict[str, Any] = {
        "state": ending.task_state,
        "reason": ending.reason,
        "lease_until": None,
        "deadline_at": None,
        "ended_at": now if final else None,
        "planned_at": now if ending.planned else None,
        "due_at": None if ending.delay_seconds is None else now + timedelta(seconds=ending.delay_seconds),
        "result": None if ending.result is None else json.loads(ending.result),
        "result_ref": ending.result_ref,
    }
    if not final:
        fields["hint_published_at"] = None
    run_id = TaskRun.objects.filter(pk=task_run_id).values_list("run_id", flat=True).first()
    if run_id is None or not rows.update(**fields):
        return False
    Attempt.objects.filter(task_run_id=task_run_id, token=token).update(
        state=ending.attempt_state,
        reason=ending.reason,
        failure_kind=ending.failure_kind,
        exit_code=ending.exit_code,
        ended_at=now,
    )
    _record(
        task_run_id, run_id, TaskState.RUNNING, ending.task_state, now, reason=ending.reason, cause="settle", by=worker
    )
    return True


def renew(cursor: Any, *, leases: Mapping[int, int], lease_seconds: float) -> list[tuple[int, str | None]]:
    until = timezone.now() + timedelta(seconds=lease_seconds)
    mine = [
        row
        for row in TaskRun.objects.filter(pk__in=list(leases), state=TaskState.RUNNING).only(
            "id", "fencing_token", "stop_requested_at", "stop_reason"
        )
        if row.fencing_token == leases[row.pk]
    ]
    TaskRun.objects.filter(pk__in=[row.pk for row in mine]).update(lease_until=until)
    return [(row.pk, row.stop_reason if row.stop_requested_at else None) for row in mine]


def decide_upstreams(cursor: Any, *, run_id: int, decided: Mapping[int, int]) -> list[tuple[int, int]]:
    rows = TaskRun.objects.filter(run_id=run_id, state=TaskState.WAITING)
    left = []
    for chunk in _chunks(sorted(decided)):
        for row in rows.filter(position__in=chunk).only("id", "position", "open_upstreams"):
            count = decided[row.position]
            TaskRun.objects.filter(pk=row.pk).update(open_upstreams=F("open_upstreams") - count)
            left.append((row.position, row.open_upstreams - count))
    return left


def states_of(cursor: Any, *, run_id: int, positions: Sequence[int]) -> list[tuple[int, str]]:
    rows = TaskRun.objects.filter(run_id=run_id)
    return [
        pair
        for chunk in _chunks(positions)
        for pair in rows.filter(position__in=chunk).values_list("position", "state")
    ]


def make_ready(cursor: Any, *, run_id: int, starts: Sequence[Start]) -> dict[int, int]:
    now = timezone.now()
    by_position = {start.position: start for start in starts}
    ids: dict[int, int] = {}
    for chunk in _chunks(sorted(by_position)):
        rows = TaskRun.objects.filter(run_id=run_id, position__in=chunk, state=TaskState.WAITING)
        ids.update(rows.values_list("position", "id"))
    # One statement for each fragment and kind; the index within a fragment follows from the positions' order.
    kinds: dict[tuple[bool, int | None], list[int]] = {}
    for position in ids:
        start = by_position[position]
        kinds.setdefault((start.hinted, start.fragment_id), []).append(position)
    for (hinted, fragment_id), positions in kinds.items():
        for chunk in _chunks(positions):
            TaskRun.objects.filter(pk__in=[ids[position] for position in chunk]).update(
                state=TaskState.READY,
                ready_at=now,
                open_upstreams=0,
                hint_published_at=now if hinted else None,
                hint_count=int(hinted),
                fragment_id=fragment_id,
            )
        if fragment_id is not None:
            cursor.executemany(
                "update orchestrator_taskrun set fragment_index = %s where id = %s",
                [(by_position[position].fragment_index, ids[position]) for position in positions],
            )
    _record_all([(ids[position], TaskState.WAITING, TaskState.READY, "") for position in sorted(ids)], run_id, now)
    return ids


def close(cursor: Any, *, run_id: int, closings: Sequence[Closing]) -> list[int]:
    now = timezone.now()
    by_position = {closing.position: closing for closing in closings}
    closed: list[tuple[int, TaskState, TaskState, str]] = []
    positions: list[int] = []
    for chunk in _chunks(sorted(by_position)):
        for row in TaskRun.objects.filter(run_id=run_id, position__in=chunk, state=TaskState.WAITING):
            closing = by_position[row.position]
            TaskRun.objects.filter(pk=row.pk).update(state=closing.state, reason=closing.reason, ended_at=now)
            closed.append((row.pk, TaskState.WAITING, closing.state, closing.reason))
            positions.append(row.position)
    _record_all(closed, run_id, now)
    return positions


def take_unplanned(cursor: Any, *, run_id: int, limit: int) -> list[tuple[int, str]]:
    rows = list(
        TaskRun.objects.filter(run_id=run_id, ended_at__isnull=False, planned_at__isnull=True)
        .order_by("position")
        .values_list("id", "position", "state")[:limit]
    )
    for chunk in _chunks([id for id, _, _ in rows]):
        TaskRun.objects.filter(pk__in=chunk).update(planned_at=timezone.now())
    return [(position, state) for _, position, state in rows]


def lock_run(cursor: Any, *, run_id: int) -> RunRow | None:
    row = (
        JobRun.objects.filter(pk=run_id)
        .values_list("id", "job_id", "version_id", "state", "stop_state", "stop_reason", "job__concurrency_limit")
        .first()
    )
    return RunRow(*row) if row else None


def lock_job(cursor: Any, *, job_id: int, shared: bool) -> tuple[int, bool, int | None, str]:
    job = Job.objects.get(pk=job_id)
    return job.pk, job.paused_at is not None, job.concurrency_limit, job.when_full


def standing(cursor: Any, *, run_id: int) -> tuple[bool, bool]:
    tasks = TaskRun.objects.filter(run_id=run_id)
    return tasks.filter(state__in=TASK_OPEN).exists(), tasks.filter(
        state__in=[TaskState.FAILED, TaskState.TIMED_OUT]
    ).exists()


def finish(cursor: Any, *, run_id: int, state: str, reason: str) -> bool:
    now = timezone.now()
    if not JobRun.objects.filter(pk=run_id, state="running").update(state=state, reason=reason, ended_at=now):
        return False
    Transition.objects.create(
        at=now, subject="run", subject_id=run_id, run_id=run_id, from_state="running", to_state=state, reason=reason,
        cause="finish",
    )  # fmt: skip
    return True


def insert_run(cursor: Any, *, new: NewRun, reason: str) -> tuple[int, datetime] | None:
    now = timezone.now()
    run, created = JobRun.objects.get_or_create(
        tenant_id=new.job.tenant_id,
        trigger_key=new.trigger_key,
        defaults={
            "job_id": new.job.pk,
            "version_id": new.version.pk,
            "trigger": dict(new.trigger),
            "parameters": dict(new.parameters),
            "event": None if new.event is None else dict(new.event),
            "logical_date": new.logical_date,
            "priority": new.priority,
            "reason": reason,
            "created_at": now,
        },
    )
    if not created:
        return None
    Transition.objects.create(
        at=now, subject="run", subject_id=run.pk, run_id=run.pk, to_state="pending", reason=reason,
        cause=str(new.trigger.get("kind", ""))[:100], by=str(new.trigger.get("by", ""))[:200],
    )  # fmt: skip
    return run.pk, now


def admit(cursor: Any, *, run_id: int, timeout: float | None) -> bool:
    now = timezone.now()
    deadline = None if timeout is None else now + timedelta(seconds=timeout)
    rows = JobRun.objects.filter(pk=run_id, state="pending")
    if not rows.update(state="running", reason="", started_at=now, deadline_at=deadline):
        return False
    Transition.objects.create(
        at=now,
        subject="run",
        subject_id=run_id,
        run_id=run_id,
        from_state="pending",
        to_state="running",
        cause="admission",
    )
    return True


def insert_task_runs(cursor: Any, *, run_id: int, version_id: int) -> None:
    TaskRun.objects.bulk_create(
        [
            TaskRun(
                run_id=run_id,
                position=task.position,
                task_id=task.pk,
                open_upstreams=task.upstream_count,
                lock_count=task.lock_count,
            )
            for task in Task.objects.filter(version_id=version_id).order_by("position")
        ],
        batch_size=500,
    )


def _record(
    task_run_id: int, run_id: int, old: str, new: str, now: datetime, *, reason: str = "", cause: str, by: str = ""
) -> None:
    Transition.objects.create(
        at=now, subject="task_run", subject_id=task_run_id, run_id=run_id, from_state=old, to_state=new, reason=reason,
        cause=cause, by=by,
    )  # fmt: skip


def _record_all(moves: Sequence[tuple[int, str, str, str]], run_id: int, now: datetime) -> None:
    facts = [
        Transition(
            at=now,
            subject="task_run",
            subject_id=id,
            run_id=run_id,
            from_state=old,
            to_state=new,
            reason=reason,
            cause="plan",
        )
        for id, old, new, reason in moves
    ]
    Transition.objects.bulk_create(facts, batch_size=100)


def _chunks(items: Sequence[int], size: int = 500) -> list[Sequence[int]]:
    """SQLite binds at most 999 values in older builds."""
    return [items[start : start + size] for start in range(0, len(items), size)]
