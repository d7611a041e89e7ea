"""The hot statements on SQLite: the same names and meanings as in `postgresql`, mostly through the ORM.

Every caller is inside a transaction that began IMMEDIATE, so there is one writer at a time: what is read here cannot
change before it is written, and no row locks exist or are needed. `now` is the host's clock, which on SQLite
is the database's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.db import connection
from django.db.models import F
from django.utils import timezone

from orchestrator.ledger.statements.rows import (
    RUN_FACTS,
    Claimed,
    Closing,
    Ending,
    Json,
    NewRun,
    RunFacts,
    RunRequest,
    RunRow,
    Start,
)
from orchestrator.models import Job, JobRun, Task, TaskRun, Transition
from orchestrator.states import TASK_OPEN, TaskState


def database_now(cursor: Any) -> datetime:
    """Return the present moment: one host, one clock."""
    return timezone.now()


# Claim and settle are plain SQL: through the ORM, with its queries compiled anew each time, they took 3 ms of CPU a task.
# Only the row of a deferred attempt has a deadline before it is claimed: the claim goes on with that attempt.
CLAIMABLE = """
select t.run_id, t.position, t.state, t.fencing_token + 1, t.attempt_count + (t.deadline_at is null), t.fragment_id,
       t.lock_count,
       r.version_id, k.timeout_seconds,
       (julianday(%(now)s) - julianday(coalesce(t.due_at, t.ready_at, %(now)s))) * 86400.0
  from orchestrator_taskrun t
  join orchestrator_jobrun r on r.id = t.run_id
  join orchestrator_task k on k.id = t.task_id
 where t.id = %(task_run)s and r.state = 'running' and r.paused_at is null and r.stop_requested_at is null
   and (t.state = 'ready' or (t.state in ('retry_waiting', 'deferred') and t.due_at <= %(now)s))
   and (t.deadline_at is null or t.deadline_at > %(now)s)
   and t.lock_count <= (select count(*) from orchestrator_lockrequest q
                         where q.task_run_id = t.id and q.granted_at is not null and q.release_at is null)"""

CLAIM = """
update orchestrator_taskrun
   set state = 'running', fencing_token = %(token)s, attempt_count = %(number)s, lease_until = %(lease_until)s,
       deadline_at = coalesce(deadline_at, %(deadline_at)s), started_at = coalesce(started_at, %(now)s), worker = %(worker)s, reason = ''
 where id = %(task_run)s"""

BEGIN_ATTEMPT = """
insert into orchestrator_attempt (task_run_id, number, token, state, reason, failure_kind, worker, started_at)
values (%(task_run)s, %(number)s, %(token)s, 'running', '', '', %(worker)s, %(now)s)
on conflict (task_run_id, number) do update set token = excluded.token, worker = excluded.worker
returning id, (julianday(%(now)s) - julianday(started_at)) * 86400.0"""

SETTLE = """
update orchestrator_taskrun
   set state = %(state)s, reason = %(reason)s, lease_until = null,
       deadline_at = case when %(deferred)s then deadline_at end,
       ended_at = case when %(final)s then %(now)s end, planned_at = case when %(planned)s then %(now)s end,
       due_at = case when %(deferred)s then min(%(due_at)s, deadline_at) else %(due_at)s end,
       hint_published_at = case when %(final)s then hint_published_at end,
       result = %(result)s, result_ref = %(result_ref)s
 where id = %(task_run)s and fencing_token = %(token)s and state = 'running'
   and (%(final)s or stop_requested_at is null)
returning run_id"""

END_ATTEMPT = """
update orchestrator_attempt
   set state = %(attempt_state)s, reason = %(reason)s, failure_kind = %(failure_kind)s, exit_code = %(exit_code)s,
       ended_at = %(now)s
 where task_run_id = %(task_run)s and token = %(token)s"""

RECORD = """
insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, "by")
values (%(now)s, 'task_run', %(task_run)s, %(run)s, %(old)s, %(new)s, %(reason)s, %(cause)s, %(worker)s)"""


def claim(
    cursor: Any, *, task_run_id: int, worker: str, lease_seconds: float, row_is_locked: bool = False
) -> Claimed | None:
    now = timezone.now()
    values: dict[str, Any] = {"task_run": task_run_id, "worker": worker, "now": _stored(now)}
    cursor.execute(CLAIMABLE, values)
    row = cursor.fetchone()
    if row is None:
        return None
    run_id, position, old, token, number, fragment_id, lock_count, version_id, timeout, waited = row
    values |= {
        "token": token,
        "number": number,
        "lease_until": _stored(now + timedelta(seconds=lease_seconds)),
        "deadline_at": _stored(now + timedelta(seconds=timeout)),
    }
    cursor.execute(CLAIM, values)
    cursor.execute(BEGIN_ATTEMPT, values)
    attempt_id, elapsed = cursor.fetchone()
    cursor.execute(RECORD, values | {"run": run_id, "old": old, "new": "running", "reason": "", "cause": "claim"})
    return Claimed(
        run_id=run_id,
        task_run_id=task_run_id,
        position=position,
        token=token,
        number=number,
        attempt_id=attempt_id,
        version_id=version_id,
        fragment_id=fragment_id,
        lock_count=lock_count,
        timeout_seconds=timeout,
        waited_seconds=waited,
        elapsed_seconds=elapsed,
        claimed_at=now,
    )


def settle(cursor: Any, *, task_run_id: int, token: int, worker: str, ending: Ending) -> bool:
    now = timezone.now()
    delay = ending.delay_seconds
    values: dict[str, Any] = {
        "task_run": task_run_id,
        "token": token,
        "worker": worker,
        "now": _stored(now),
        "state": ending.task_state.value,
        "attempt_state": ending.attempt_state.value,
        "reason": ending.reason,
        "failure_kind": ending.failure_kind,
        "exit_code": ending.exit_code,
        "final": ending.final,
        "deferred": ending.deferred,
        "planned": ending.planned,
        "due_at": None if delay is None else _stored(now + timedelta(seconds=delay)),
        "result": ending.result,
        "result_ref": ending.result_ref,
    }
    cursor.execute(SETTLE, values)
    row = cursor.fetchone()
    if row is None:
        return False
    if not ending.deferred:
        cursor.execute(END_ATTEMPT, values)
    cursor.execute(
        RECORD, values | {"run": row[0], "old": "running", "new": ending.task_state.value, "cause": "settle"}
    )
    return True


def settle_and_decide(
    cursor: Any, *, run_id: int, task_run_id: int, token: int, worker: str, ending: Ending, positions: Sequence[int]
) -> list[tuple[int, int]] | None:
    """Settle, and lower the counters of what follows; None if there is nothing to settle."""
    if not settle(cursor, task_run_id=task_run_id, token=token, worker=worker, ending=ending):
        return None
    return decide_upstreams(cursor, run_id=run_id, decided=dict.fromkeys(positions, 1))


def _stored(moment: datetime) -> str:
    """Return a moment as Django keeps it on SQLite: text that sorts by time."""
    return str(connection.ops.adapt_datetimefield_value(moment))


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


def take_unplanned(cursor: Any, *, run_id: int, limit: int, headers: bool = True) -> list[tuple[int, str]]:
    unplanned = TaskRun.objects.filter(run_id=run_id, ended_at__isnull=False, planned_at__isnull=True)
    if not headers:
        unplanned = unplanned.filter(fragment_id__isnull=True)
    rows = list(unplanned.order_by("position").values_list("id", "position", "state")[:limit])
    for chunk in _chunks([id for id, _, _ in rows]):
        TaskRun.objects.filter(pk__in=chunk).update(planned_at=timezone.now())
    return [(position, state) for _, position, state in rows]


def lock_run(cursor: Any, *, run_id: int) -> RunRow | None:
    row = (
        JobRun.objects.filter(pk=run_id)
        .values_list(
            "id",
            "job_id",
            "version_id",
            "state",
            "stop_state",
            "stop_reason",
            "job__concurrency_limit",
            "admission_key",
        )
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


INSERT_RUNS = """
insert into orchestrator_jobrun
       (tenant_id, job_id, version_id, trigger_key, "trigger", parameters, event, logical_date, priority, event_id,
        admission_key, admission_limit, admission_drop, drop_when_paused, expires_at, root_event_id, depth, rule_chain,
        state, reason, created_at, pause_reason, stop_state, stop_reason)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'pending', '', %s, '', '', '')
on conflict (tenant_id, trigger_key) do nothing"""


def insert_runs(cursor: Any, *, requests: Sequence[RunRequest]) -> dict[tuple[int, str], int]:
    """Insert pending runs in their order; returns the ids of those that are new, by tenant and trigger key."""
    now = timezone.now()
    # Ids only grow, and there is one writer: what is above the last one is ours.
    cursor.execute("select coalesce(max(id), 0) from orchestrator_jobrun")
    last = cursor.fetchone()[0]
    stored_now = _stored(now)
    cursor.executemany(INSERT_RUNS, [_values(request, stored_now) for request in requests])
    found = runs_by_key(cursor, keys=list({(request.tenant_id, request.trigger_key) for request in requests}))
    made = {key: id for key, id in found.items() if id > last}
    Transition.objects.bulk_create(
        [
            Transition(
                at=now, subject="run", subject_id=made[key], run_id=made[key], to_state="pending", cause=request.cause,
                by=request.by,
            )
            for key, request in sorted(
                {(r.tenant_id, r.trigger_key): r for r in reversed(requests)}.items(), key=lambda pair: found[pair[0]]
            )
            if key in made
        ],
        batch_size=100,
    )  # fmt: skip
    return made


def _values(request: RunRequest, now: str) -> tuple[Any, ...]:
    return (
        request.tenant_id,
        request.job_id,
        request.version_id,
        request.trigger_key,
        _json(request.trigger),
        _json(request.parameters),
        _json(request.event),
        _stored(request.logical_date),
        request.priority,
        request.event_id,
        request.admission_key and request.admission_key.hex,
        request.limit,
        request.admission_drop,
        request.drop_when_paused,
        request.expires_at and _stored(request.expires_at),
        request.root_event_id,
        request.depth,
        json.dumps(list(request.rule_chain)),
        now,
    )


def _json(value: Json | None) -> str | None:
    if value is None:
        return None
    return (value if isinstance(value, bytes) else orjson.dumps(value)).decode()


def runs_by_key(cursor: Any, *, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the ids of runs by tenant and trigger key."""
    found: dict[tuple[int, str], int] = {}
    for start in range(0, len(keys), 400):
        chunk = keys[start : start + 400]
        pairs = ", ".join(["(%s, %s)"] * len(chunk))
        cursor.execute(
            f"select tenant_id, trigger_key, id from orchestrator_jobrun where (tenant_id, trigger_key) in (values {pairs})",
            [value for pair in chunk for value in pair],
        )
        found.update({(tenant_id, key): id for tenant_id, key, id in cursor.fetchall()})
    return found


def run_facts(cursor: Any, *, run_id: int) -> RunFacts:
    cursor.execute(RUN_FACTS, {"run": run_id})
    tenant_id, time_zone, parameters, event, logical_date = cursor.fetchone()
    # Django's converter knows the column's type, but not that it holds UTC.
    moment = logical_date.replace(tzinfo=UTC)
    return RunFacts(tenant_id, time_zone, json.loads(parameters), event and json.loads(event), moment)


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
