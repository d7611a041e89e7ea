"""The hot statements on PostgreSQL: each change with its attempt and its transition in one statement.

`now()` is the start of the transaction on the database's clock, so whatever one transaction writes has one moment.
Row locks are taken in the order of ids, which within a run is the topological order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from orchestrator.ledger.statements.rows import (
    RUN_FACTS,
    Claimed,
    Closing,
    Ending,
    NewRun,
    RunFacts,
    RunRequest,
    RunRow,
    Start,
)

# Only the row of a deferred attempt has a deadline before it is claimed: the claim goes on with that attempt, under its
# number and until its deadline.
CLAIM = """
with claimed as (
    update orchestrator_taskrun t
       set state = 'running', fencing_token = t.fencing_token + 1,
           attempt_count = t.attempt_count + (t.deadline_at is null)::int,
           lease_until = now() + %(lease)s * interval '1 second',
           deadline_at = coalesce(t.deadline_at, now() + k.timeout_seconds * interval '1 second'),
           started_at = coalesce(t.started_at, now()), worker = %(worker)s, reason = ''
      from orchestrator_jobrun r, orchestrator_task k
     where t.id = %(task_run)s and r.id = t.run_id and k.id = t.task_id
       and r.state = 'running' and r.paused_at is null and r.stop_requested_at is null
       and (t.state = 'ready' or (t.state in ('retry_waiting', 'deferred') and t.due_at <= now()))
       and (t.deadline_at is null or t.deadline_at > now())
       and (t.lock_count = 0 or %(row_is_locked)s and t.lock_count = (
            select count(*) from orchestrator_lockrequest q
             where q.task_run_id = t.id and q.granted_at is not null and q.release_at is null))
    returning t.id, t.run_id, t.position, t.fencing_token, t.attempt_count, t.fragment_id, t.lock_count,
              r.version_id, k.timeout_seconds, coalesce(t.due_at, t.ready_at) as since,
              (select o.state from orchestrator_taskrun o where o.id = t.id) as from_state
), attempt as (
    insert into orchestrator_attempt
           (task_run_id, number, token, state, reason, failure_kind, worker, started_at)
    select id, attempt_count, fencing_token, 'running', '', '', %(worker)s, now() from claimed
    on conflict (task_run_id, number) do update set token = excluded.token, worker = excluded.worker
    returning id, started_at
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'task_run', id, run_id, from_state, 'running', '', 'claim', %(worker)s from claimed
)
select c.run_id, c.id, c.position, c.fencing_token, c.attempt_count, a.id, c.version_id, c.fragment_id, c.lock_count,
       c.timeout_seconds, extract(epoch from now() - c.since)::float8, extract(epoch from now() - a.started_at)::float8,
       extract(epoch from now())::float8
  from claimed c, attempt a"""

# A retry or deferral is refused once a stop is requested: the caller then settles what the stop asked for.
# A deferred attempt stays open and keeps its deadline, at which it is due at the latest.
_SETTLED = """
with settled as (
    update orchestrator_taskrun t
       set state = %(state)s, reason = %(reason)s, lease_until = null,
           deadline_at = case when %(deferred)s then t.deadline_at end,
           ended_at = case when %(final)s then now() end,
           planned_at = case when %(planned)s then now() end,
           due_at = least(now() + %(delay)s::float8 * interval '1 second',
                          case when %(deferred)s then t.deadline_at end),
           hint_published_at = case when %(final)s then hint_published_at end,
           result = %(result)s::jsonb, result_ref = %(result_ref)s
     where t.id = %(task_run)s and t.fencing_token = %(token)s and t.state = 'running'
       and (%(final)s or t.stop_requested_at is null)
    returning t.id, t.run_id
), attempt as (
    update orchestrator_attempt a
       set state = %(attempt_state)s, reason = %(reason)s, failure_kind = %(failure_kind)s, exit_code = %(exit_code)s,
           ended_at = now()
      from settled s where a.task_run_id = s.id and a.token = %(token)s and not %(deferred)s
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'task_run', id, run_id, 'running', %(state)s, %(reason)s, 'settle', %(worker)s from settled
)"""

SETTLE = f"""{_SETTLED}
select 1 from settled"""

# With the first step of the plan, for one round trip less: the counters of what follows, as DECIDE lowers them.
SETTLE_AND_DECIDE = f"""{_SETTLED}, due as (
    select t.id
      from settled s cross join unnest(%(positions)s::int[]) as c(position)
     cross join lateral (
           select id from orchestrator_taskrun
            where run_id = s.run_id and position = c.position and state || '' = 'waiting' for update) t
), decided as (
    update orchestrator_taskrun t set open_upstreams = t.open_upstreams - 1
      from due where t.id = due.id
    returning t.position, t.open_upstreams
)
select d.position, d.open_upstreams from settled left join decided d on true"""

# The success of one of many upstreams of plain joins: while other upstreams are open, nothing follows from it that would
# need a plan, nor a transaction of several statements. If it is the last for any, nothing is written. Row locks in the
# order of ids: its own, then those of what follows.
SETTLE_ONE_OF_MANY = """
with own as materialized (
    select id from orchestrator_taskrun
     where id = %(task_run)s and fencing_token = %(token)s and state = 'running' for update
), due as materialized (
    select t.id, t.open_upstreams
      from own cross join unnest(%(positions)s::int[]) as c(position)
     cross join lateral (
           select id, open_upstreams from orchestrator_taskrun
            where run_id = %(run)s and position = c.position and state || '' = 'waiting' for update) t
), verdict as materialized (
    select count(*) as waiting, coalesce(min(open_upstreams), 2) > 1 as apart from due
), settled as (
    update orchestrator_taskrun t
       set state = 'succeeded', reason = %(reason)s, lease_until = null, deadline_at = null, ended_at = now(),
           planned_at = now(), due_at = null, result = %(result)s::jsonb, result_ref = %(result_ref)s
      from own, verdict v where t.id = own.id and v.apart
    returning t.id, t.run_id
), counted as (
    update orchestrator_taskrun t set open_upstreams = t.open_upstreams - 1
      from due, settled where t.id = due.id
), attempt as (
    update orchestrator_attempt a
       set state = 'succeeded', reason = %(reason)s, failure_kind = '', exit_code = %(exit_code)s, ended_at = now()
      from settled s where a.task_run_id = s.id and a.token = %(token)s
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'task_run', id, run_id, 'running', 'succeeded', %(reason)s, 'settle', %(worker)s from settled
)
select v.waiting from settled, verdict v"""

RENEW = """
with mine as (
    select id, token from unnest(%(ids)s::bigint[], %(tokens)s::bigint[]) as m(id, token) order by id
)
update orchestrator_taskrun t
   set lease_until = now() + %(lease)s * interval '1 second'
  from mine m
 where t.id = m.id and t.fencing_token = m.token and t.state = 'running'
returning t.id, case when t.stop_requested_at is null then null else t.stop_reason end"""

# Rows of a run are found one position at a time, by a subquery that cannot become a join: runs have one task or 10,000,
# and the planner, which expects the average, would read every open task of a large run to find three of them. `|| ''`
# keeps it off the index of open tasks, which knows no positions.

# The counter is only a filter for the planner, and goes down once for each upstream: `planned_at` sees to that.
# Positions come in order, so the rows are locked in order.
DECIDE = """
with due as (
    select t.id, c.decided
      from unnest(%(positions)s::int[], %(counts)s::int[]) as c(position, decided)
     cross join lateral (
           select id from orchestrator_taskrun
            where run_id = %(run)s and position = c.position and state || '' = 'waiting' for update) t
)
update orchestrator_taskrun t set open_upstreams = t.open_upstreams - due.decided
  from due where t.id = due.id
returning t.position, t.open_upstreams"""

STATES = """
select t.position, t.state
  from unnest(%(positions)s::int[]) as p(position)
 cross join lateral (
       select position, state from orchestrator_taskrun where run_id = %(run)s and position = p.position offset 0) t"""

READY = """
with ready as (
    update orchestrator_taskrun t
       set state = 'ready', ready_at = now(), open_upstreams = 0,
           hint_published_at = case when s.hinted then now() end, hint_count = s.hinted::int,
           fragment_id = s.fragment_id, fragment_index = s.fragment_index
      from unnest(%(positions)s::int[], %(hinted)s::bool[], %(fragments)s::bigint[], %(indexes)s::int[])
           as s(position, hinted, fragment_id, fragment_index)
     cross join lateral (
           select id from orchestrator_taskrun
            where run_id = %(run)s and position = s.position and state || '' = 'waiting' for update) w
     where t.id = w.id
    returning t.id, t.position
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'task_run', id, %(run)s, 'waiting', 'ready', '', 'plan', '' from ready order by id
)
select position, id from ready"""

CLOSE = """
with closed as (
    update orchestrator_taskrun t
       set state = s.state, reason = s.reason, ended_at = now()
      from unnest(%(positions)s::int[], %(states)s::text[], %(reasons)s::text[]) as s(position, state, reason)
     cross join lateral (
           select id from orchestrator_taskrun
            where run_id = %(run)s and position = s.position and state || '' = 'waiting' for update) w
     where t.id = w.id
    returning t.id, t.position, t.state, t.reason
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'task_run', id, %(run)s, 'waiting', state, reason, 'plan', '' from closed order by id
)
select position from closed"""

TAKE_UNPLANNED = """
with due as (
    select id from orchestrator_taskrun
     where run_id = %(run)s and ended_at is not null and planned_at is null and (%(headers)s or fragment_id is null)
     order by position limit %(limit)s
       for update
)
update orchestrator_taskrun t set planned_at = now()
  from due where t.id = due.id and t.planned_at is null
returning t.position, t.state"""

# `no key`: a settle that inserts a Fragment shares the run's key, and must not wait for whoever waits for its rows.
LOCK_RUN = """
select r.id, r.job_id, r.version_id, r.state, r.stop_state, r.stop_reason, j.concurrency_limit,
       r.admission_key
  from orchestrator_jobrun r join orchestrator_job j on j.id = r.job_id
 where r.id = %(run)s for no key update of r"""

LOCK_JOB = """
select id, paused_at is not null, concurrency_limit, when_full from orchestrator_job where id = %(job)s"""

# Failures are looked for at the end alone: among the rows of a large run that is a long look.
STANDING = """
with o as materialized (
    select exists (select 1 from orchestrator_taskrun where run_id = %(run)s
                    and state in ('waiting', 'ready', 'running', 'retry_waiting', 'deferred')) as is_open
)
select is_open, case when is_open then false else
       exists (select 1 from orchestrator_taskrun where run_id = %(run)s and state in ('failed', 'timed_out')) end
  from o"""

FINISH = """
with finished as (
    update orchestrator_jobrun set state = %(state)s, reason = %(reason)s, ended_at = now()
     where id = %(run)s and state = 'running' returning id
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'run', id, id, 'running', %(state)s, %(reason)s, 'finish', '' from finished
)
select 1 from finished"""

INSERT_RUN = """
with inserted as (
    insert into orchestrator_jobrun
           (tenant_id, job_id, version_id, trigger_key, trigger, parameters, event, logical_date, priority, state, reason,
            created_at, pause_reason, stop_state, stop_reason)
    values (%(tenant)s, %(job)s, %(version)s, %(trigger_key)s, %(trigger)s::jsonb, %(parameters)s::jsonb,
            %(event)s::jsonb, %(logical_date)s, %(priority)s, 'pending', %(reason)s, now(), '', '', '')
    on conflict (tenant_id, trigger_key) do nothing
    returning id, created_at
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'run', id, id, '', 'pending', %(reason)s, %(cause)s, %(by)s from inserted
)
select id, created_at from inserted"""

# A batch travels as one JSON text, which costs the client a tenth of arrays. Ids ascend in its order: `ord` makes the
# sort explicit, and the identity column is drawn above it.
INSERT_RUNS = """
with inserted as (
    insert into orchestrator_jobrun
           (tenant_id, job_id, version_id, trigger_key, trigger, parameters, event, logical_date, priority, event_id,
            admission_key, admission_limit, admission_drop, drop_when_paused, expires_at, root_event_id, depth,
            rule_chain, state, reason, created_at, pause_reason, stop_state, stop_reason)
    select tenant, job, version, key, trigger, parameters, nullif(event, 'null'), logical_date, priority, event_id,
           admission_key, admission_limit, admission_drop, drop_when_paused, expires_at, root_event_id, depth,
           rule_chain, 'pending', '', now(), '', '', ''
      from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::jsonb[], %s::jsonb[], %s::jsonb[],
                  %s::timestamptz[], %s::smallint[], %s::bigint[], %s::uuid[], %s::int[], %s::bool[], %s::bool[],
                  %s::timestamptz[], %s::bigint[], %s::smallint[], %s::jsonb[])
           with ordinality as b (
           tenant, job, version, key, trigger, parameters, event, logical_date, priority, event_id, admission_key,
           admission_limit, admission_drop, drop_when_paused, expires_at, root_event_id, depth, rule_chain, ord)
     order by ord
    on conflict (tenant_id, trigger_key) do nothing
    returning id, tenant_id, trigger_key, trigger
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'run', id, id, '', 'pending', '', left(coalesce(trigger->>'kind', trigger->>'type', ''), 100),
           left(coalesce(trigger->>'by', ''), 200) from inserted order by id
)
select tenant_id, trigger_key, id from inserted"""

RUNS_BY_KEY = """
select r.tenant_id, r.trigger_key, r.id
  from unnest(%s::bigint[], %s::text[]) as k(tenant, key)
  join orchestrator_jobrun r on r.tenant_id = k.tenant and r.trigger_key = k.key"""

ADMIT = """
with admitted as (
    update orchestrator_jobrun
       set state = 'running', reason = '', started_at = now(),
           deadline_at = now() + %(timeout)s::float8 * interval '1 second'
     where id = %(run)s and state = 'pending' returning id
), fact as (
    insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
    select now(), 'run', id, id, 'pending', 'running', '', 'admission', '' from admitted
)
select 1 from admitted"""

INSERT_TASK_RUNS = """
insert into orchestrator_taskrun
       (run_id, position, task_id, state, reason, fencing_token, attempt_count, lost_count, open_upstreams, lock_count,
        hint_count, worker, stop_reason, result_ref)
select %(run)s, position, id, 'waiting', '', 0, 0, 0, upstream_count, lock_count, 0, '', '', ''
  from orchestrator_task where version_id = %(version)s order by position"""


def _array(values: Iterable[int | bool | None]) -> str:
    # The driver looks at each element of a list to find its type: 40 µs, however short the list. The casts know it.
    return "{" + ",".join("null" if value is None else str(value) for value in values) + "}"


def database_now(cursor: Any) -> datetime:
    """Return the moment of this transaction on the database's clock."""
    cursor.execute("select now()")
    return cursor.fetchone()[0]


def claim(
    cursor: Any, *, task_run_id: int, worker: str, lease_seconds: float, row_is_locked: bool = False
) -> Claimed | None:
    # Two claims cannot both succeed: the second waits for the row, then no longer finds it ready. Grants lie in
    # another table, of which a statement that waited still sees the old state: one that needs some must hold the
    # row's lock before it begins.
    cursor.execute(
        CLAIM, {"task_run": task_run_id, "worker": worker, "lease": lease_seconds, "row_is_locked": row_is_locked}
    )
    row = cursor.fetchone()
    if row is None:
        return None
    # As a number: a moment of the database costs more to read than all the rest of the row.
    moment = datetime.fromtimestamp(row[-1], UTC)
    return Claimed(*(*row[:-1], moment))


def settle(cursor: Any, *, task_run_id: int, token: int, worker: str, ending: Ending) -> bool:
    cursor.execute(SETTLE, _settled(task_run_id, token, worker, ending))
    return cursor.fetchone() is not None


def settle_and_decide(
    cursor: Any, *, run_id: int, task_run_id: int, token: int, worker: str, ending: Ending, positions: Sequence[int]
) -> list[tuple[int, int]] | None:
    """Settle, and lower the counters of what follows, `positions` in order; None if there is nothing to settle."""
    values = _settled(task_run_id, token, worker, ending)
    cursor.execute(SETTLE_AND_DECIDE, values | {"positions": _array(positions)})
    rows = cursor.fetchall()
    return [row for row in rows if row[0] is not None] if rows else None


def _settled(task_run_id: int, token: int, worker: str, ending: Ending) -> dict[str, Any]:
    return {
        "task_run": task_run_id,
        "token": token,
        "worker": worker,
        "state": ending.task_state.value,
        "attempt_state": ending.attempt_state.value,
        "reason": ending.reason,
        "failure_kind": ending.failure_kind,
        "exit_code": ending.exit_code,
        "final": ending.final,
        "deferred": ending.deferred,
        "planned": ending.planned,
        "delay": ending.delay_seconds,
        "result": ending.result,
        "result_ref": ending.result_ref,
    }


def settle_one_of_many(
    cursor: Any, *, run_id: int, task_run_id: int, token: int, worker: str, ending: Ending, positions: Sequence[int]
) -> int | None:
    """Settle a success whose downstream, `positions` in order, are plain joins; None if that starts one of them.

    Returns how many of them wait for others. Needs no transaction around it.
    """
    cursor.execute(
        SETTLE_ONE_OF_MANY,
        {
            "run": run_id,
            "task_run": task_run_id,
            "token": token,
            "worker": worker,
            "positions": _array(positions),
            "reason": ending.reason[:500],
            "exit_code": ending.exit_code,
            "result": ending.result,
            "result_ref": ending.result_ref,
        },
    )
    row = cursor.fetchone()
    return None if row is None else int(row[0])


def renew(cursor: Any, *, leases: Mapping[int, int], lease_seconds: float) -> list[tuple[int, str | None]]:
    cursor.execute(RENEW, {"ids": list(leases), "tokens": list(leases.values()), "lease": lease_seconds})
    return cursor.fetchall()


def decide_upstreams(cursor: Any, *, run_id: int, decided: Mapping[int, int]) -> list[tuple[int, int]]:
    cursor.execute(DECIDE, {"run": run_id, "positions": _array(decided), "counts": _array(decided.values())})
    return cursor.fetchall()


def states_of(cursor: Any, *, run_id: int, positions: Sequence[int]) -> list[tuple[int, str]]:
    cursor.execute(STATES, {"run": run_id, "positions": _array(positions)})
    return cursor.fetchall()


def make_ready(cursor: Any, *, run_id: int, starts: Sequence[Start]) -> dict[int, int]:
    cursor.execute(
        READY,
        {
            "run": run_id,
            "positions": _array(s.position for s in starts),
            "hinted": _array(s.hinted for s in starts),
            "fragments": _array(s.fragment_id for s in starts),
            "indexes": _array(s.fragment_index for s in starts),
        },
    )
    return dict(cursor.fetchall())


def close(cursor: Any, *, run_id: int, closings: Sequence[Closing]) -> list[int]:
    cursor.execute(
        CLOSE,
        {
            "run": run_id,
            "positions": [c.position for c in closings],
            "states": [c.state.value for c in closings],
            "reasons": [c.reason for c in closings],
        },
    )
    return [position for (position,) in cursor.fetchall()]


def take_unplanned(cursor: Any, *, run_id: int, limit: int, headers: bool = True) -> list[tuple[int, str]]:
    cursor.execute(TAKE_UNPLANNED, {"run": run_id, "limit": limit, "headers": headers})
    return cursor.fetchall()


def lock_run(cursor: Any, *, run_id: int) -> RunRow | None:
    cursor.execute(LOCK_RUN, {"run": run_id})
    row = cursor.fetchone()
    return RunRow(*row) if row else None


def lock_job(cursor: Any, *, job_id: int, shared: bool) -> tuple[int, bool, int | None, str]:
    cursor.execute(f"{LOCK_JOB} {'for share' if shared else 'for no key update'}", {"job": job_id})
    return cursor.fetchone()


def standing(cursor: Any, *, run_id: int) -> tuple[bool, bool]:
    cursor.execute(STANDING, {"run": run_id})
    return cursor.fetchone()


def finish(cursor: Any, *, run_id: int, state: str, reason: str) -> bool:
    cursor.execute(FINISH, {"run": run_id, "state": state, "reason": reason})
    return cursor.fetchone() is not None


def insert_run(cursor: Any, *, new: NewRun, reason: str) -> tuple[int, datetime] | None:
    cursor.execute(
        INSERT_RUN,
        {
            "tenant": new.job.tenant_id,
            "job": new.job.pk,
            "version": new.version.pk,
            "trigger_key": new.trigger_key,
            "trigger": json.dumps(dict(new.trigger)),
            "parameters": json.dumps(dict(new.parameters)),
            "event": None if new.event is None else json.dumps(dict(new.event)),
            "logical_date": new.logical_date,
            "priority": new.priority,
            "reason": reason,
            "cause": str(new.trigger.get("kind", ""))[:100],
            "by": str(new.trigger.get("by", ""))[:200],
        },
    )
    return cursor.fetchone()


def insert_runs(cursor: Any, *, requests: Sequence[RunRequest]) -> dict[tuple[int, str], int]:
    """Insert pending runs in their order; returns the ids of those that are new, by tenant and trigger key."""
    cursor.execute(
        INSERT_RUNS,
        [
            _json_array([request.tenant_id for request in requests]),
            _json_array([request.job_id for request in requests]),
            _json_array([request.version_id for request in requests]),
            _json_array([request.trigger_key for request in requests]),
            _json_array([_json_text(request.trigger) for request in requests]),
            _json_array([_json_text(request.parameters) for request in requests]),
            _json_array([_json_text(request.event) for request in requests]),
            _json_array([request.logical_date for request in requests]),
            _json_array([request.priority for request in requests]),
            _json_array([request.event_id for request in requests]),
            _json_array([request.admission_key for request in requests]),
            _json_array([request.limit for request in requests]),
            _json_array([request.admission_drop for request in requests]),
            _json_array([request.drop_when_paused for request in requests]),
            _json_array([request.expires_at for request in requests]),
            _json_array([request.root_event_id for request in requests]),
            _json_array([request.depth for request in requests]),
            _json_array([_json_text(request.rule_chain) for request in requests]),
        ],
    )
    return {(tenant_id, key): id for tenant_id, key, id in cursor.fetchall()}


def _json_array(values: list[Any]) -> str:
    """Return an array as PostgreSQL writes it: as JSON does, for plain values and for texts without control characters."""
    return "{" + orjson.dumps(values)[1:-1].decode() + "}"


def _json_text(value: Any) -> str | None:
    """Return JSON as a text, which has no control characters; None for null."""
    if value is None:
        return None
    return (value if isinstance(value, bytes) else orjson.dumps(value)).decode()


def runs_by_key(cursor: Any, *, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the ids of runs by tenant and trigger key."""
    cursor.execute(RUNS_BY_KEY, [[tenant_id for tenant_id, _ in keys], [key for _, key in keys]])
    return {(tenant_id, key): id for tenant_id, key, id in cursor.fetchall()}


def run_facts(cursor: Any, *, run_id: int) -> RunFacts:
    cursor.execute(RUN_FACTS, {"run": run_id})
    tenant_id, time_zone, parameters, event, logical_date = cursor.fetchone()
    return RunFacts(tenant_id, time_zone, json.loads(parameters), event and json.loads(event), logical_date)


def admit(cursor: Any, *, run_id: int, timeout: float | None) -> bool:
    cursor.execute(ADMIT, {"run": run_id, "timeout": timeout})
    return cursor.fetchone() is not None


def insert_task_runs(cursor: Any, *, run_id: int, version_id: int) -> None:
    cursor.execute(INSERT_TASK_RUNS, {"run": run_id, "version": version_id})
