"""A history to measure pages with: months of runs with all that belongs to them, written by statements of PostgreSQL.

    UPBEAT_DATABASE_URL=postgresql://… .venv/bin/python -m tests.benchmarks.history --runs 100000

fills an **empty** database and prints what each table takes on the disk: to size a server of one's own. Ten task runs to
a run; states, triggers, tenants and jobs as uneven as real ones are: most runs succeed, a few jobs run most, one tenant
has nearly nothing. The same numbers give the same rows, apart from the moments, which end now.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

TASKS: Final = 10
JOBS: Final = 500
RULES: Final = 500
#: Days of runs, and of events: those are kept for a shorter time.
RUN_DAYS: Final = 90
EVENT_DAYS: Final = 30
#: Of a list that people write.
SMALL: Final = 300
EVENT_TYPES: Final = 40
RUNNING, PENDING = 40, 200
#: (slug, its share of the jobs): the last has one, which hardly ever runs.
TENANTS: Final = (("default", 0.55), ("shop", 0.3), ("finance", 0.1), ("lab", 0.048), ("guest", 0.002))


def fill(*, runs: int, events: int | None = None) -> dict[str, float]:
    """Fill an empty database on PostgreSQL; return the megabytes of each table. Raises SystemExit if there are runs."""
    from django.db import connection, transaction

    from orchestrator.models import JobRun

    if connection.vendor != "postgresql":
        raise SystemExit("The history is written for PostgreSQL; UPBEAT_DATABASE_URL names no such database.")
    if JobRun.objects.exists():
        raise SystemExit("This database has runs already: a made-up history is written to an empty one alone.")
    numbers = {
        "runs": runs, "events": events if events is not None else 3 * runs, "run_days": RUN_DAYS,
        "event_days": EVENT_DAYS, "tasks": TASKS, "running": min(RUNNING, runs // 10), "pending": min(PENDING, runs // 5),
        "types": EVENT_TYPES, "jobs": JOBS, "letters": runs // 5, "records": 2 * runs,
    }  # fmt: skip
    with transaction.atomic():
        _configuration()
        _days()
        with connection.cursor() as cursor:
            cursor.execute("select current_setting('is_superuser')")
            if cursor.fetchone()[0] == "on":
                # Every key that these statements write was read from the row that it names.
                cursor.execute("set local session_replication_role = replica")
            # Pages have seconds, this has minutes.
            cursor.execute("set local statement_timeout = 0")
            cursor.execute("select setseed(0.5)")
            for statement in _STATEMENTS:
                cursor.execute(statement.format(**numbers))
    with connection.cursor() as cursor:
        cursor.execute("set statement_timeout = 0")
        cursor.execute("vacuum analyze")
        cursor.execute(
            "select coalesce(p.inhparent, c.oid)::regclass::text, sum(pg_total_relation_size(c.oid)) / 1e6"
            " from pg_class c left join pg_inherits p on p.inhrelid = c.oid and c.relname like 'triggers_event%%'"
            " where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace group by 1 order by 2 desc"
        )
        return {name: float(size) for name, size in cursor.fetchall()}


def _configuration() -> None:
    """Write what people configure: tenants, jobs, rules, sources, tokens and the like, some hundreds of each."""
    from django.contrib.auth.models import Group, User
    from django.utils import timezone
    from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask

    from orchestrator.models import (
        ApiToken,
        Connection,
        Dependency,
        Job,
        JobVersion,
        LaneWorker,
        Lease,
        Lock,
        RoleGrant,
        Secret,
        Task,
        Template,
        Tenant,
    )
    from triggers.models import EventSource, Listener, RuleVersion, TriggerRule

    now = timezone.now()
    tenants = [Tenant.objects.get_or_create(slug=slug, defaults={"name": slug.title()})[0] for slug, _ in TENANTS]
    owners = [tenant for tenant, (_, share) in zip(tenants, TENANTS, strict=True) for _ in range(round(share * JOBS))]
    spec = _spec("job")
    jobs = Job.objects.bulk_create(
        Job(
            tenant=tenant, name=f"export-{number:03}-to-the-lake", owner=f"team-{number % 20}", tags=[f"area-{number % 9}"],
            description="Copies what changed since yesterday.",
        )
        for number, tenant in enumerate(owners)
    )  # fmt: skip
    versions = JobVersion.objects.bulk_create(
        JobVersion(
            job=job, number=1, content_hash=f"{job.pk:064x}", spec=spec | {"name": job.name},
            source=f"kind: Job\nname: {job.name}\n" + "# as it was written\n" * 40, author="user:ada", task_count=TASKS,
        )
        for job in jobs
    )  # fmt: skip
    for job, version in zip(jobs, versions, strict=True):
        job.latest_version = version
    Job.objects.bulk_update(jobs, ["latest_version"], batch_size=500)
    Task.objects.bulk_create(
        [
            Task(version=version, position=position, name=f"step_{position}", type="noop", upstream_count=min(position, 1),
                 downstream_count=int(position < TASKS - 1), pool=("default", "long", "bulk")[position % 3])
            for version in versions
            for position in range(TASKS)
        ],
        batch_size=2000,
    )  # fmt: skip
    Dependency.objects.bulk_create(
        [
            Dependency(version=version, upstream_position=position, downstream_position=position + 1)
            for version in versions
            for position in range(TASKS - 1)
        ],
        batch_size=2000,
    )
    users = User.objects.bulk_create(User(username=f"person-{n}", is_staff=True, password="!") for n in range(SMALL))
    RoleGrant.objects.bulk_create(
        RoleGrant(user=user, tenant=tenants[n % len(tenants)], role=("viewer", "operator", "editor", "admin")[n % 4])
        for n, user in enumerate(users)
    )
    Group.objects.bulk_create(Group(name=f"group-{n}") for n in range(20))
    intervals = IntervalSchedule.objects.bulk_create(IntervalSchedule(every=n + 1, period="minutes") for n in range(20))
    CrontabSchedule.objects.bulk_create(CrontabSchedule(minute=str(n)) for n in range(50))
    ClockedSchedule.objects.bulk_create(ClockedSchedule(clocked_time=now + timedelta(hours=n)) for n in range(50))
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"clean up {n}", task="app.clean_up", interval=intervals[n % 20]) for n in range(SMALL)
    )
    Lease.objects.bulk_create(Lease(name=f"role-{n}", holder="host:1", expires_at=now) for n in range(3))
    LaneWorker.objects.bulk_create(
        LaneWorker(lane=("default", "long", "bulk")[n % 3], worker=f"w{n}@host-{n % 8}", slots=4, seen_at=now)
        for n in range(60)
    )

    def tenant_of(n: int) -> Tenant:
        return owners[n % len(owners)]

    ApiToken.objects.bulk_create(
        ApiToken(tenant=tenant_of(n), name=f"pipeline-{n}", prefix=f"ub_{n:06}", digest=f"{n:064x}", scopes=["read"])
        for n in range(SMALL)
    )
    Secret.objects.bulk_create(Secret(tenant=tenant_of(n), name=f"secret-{n}", ciphertext=b"x") for n in range(SMALL))
    Connection.objects.bulk_create(
        Connection(tenant=tenant_of(n), name=f"warehouse-{n}", ciphertext=b"x", shown_url=f"postgresql://db-{n}/main")
        for n in range(SMALL)
    )
    Lock.objects.bulk_create(Lock(tenant=tenant_of(n), name=f"table-{n}", capacity=1 + n % 3) for n in range(SMALL))
    Template.objects.bulk_create(
        Template(
            tenant=tenant_of(n), name=f"copy-{n}", parameters=[{"name": "table"}], task_definition={"type": "shell"}
        )
        for n in range(SMALL)
    )
    sources = EventSource.objects.bulk_create(
        EventSource(tenant=tenant_of(n * 7), slug=f"orders-{n}", kind=("kafka", "rabbitmq")[n % 2], id_policy="transport",
                    config={"topics": [f"orders-{n}"]})
        for n in range(30)
    )  # fmt: skip
    Listener.objects.bulk_create(
        Listener(instance=f"host:{n}", source=source, kind=source.kind, assigned={f"orders-{n}/0": n}, last_loop_at=now,
                 started_at=now)
        for n, source in enumerate(sources)
    )  # fmt: skip
    rules = TriggerRule.objects.bulk_create(
        TriggerRule(tenant=jobs[n].tenant, slug=f"on-order-{n}", spec=_rule(n, jobs[n].name)) for n in range(RULES)
    )
    RuleVersion.objects.bulk_create(
        RuleVersion(rule=rule, number=1, spec=rule.spec, author="user:ada") for rule in rules
    )


def _spec(name: str) -> dict[str, Any]:
    from orchestrator.dag.spec import DependencySpec, JobSpec, TaskSpec

    tasks = tuple(
        TaskSpec(f"step_{n}", "noop", depends_on=(DependencySpec(f"step_{n - 1}"),) if n else ()) for n in range(TASKS)
    )
    return dict(JobSpec(name=name, tasks=tasks).canonical())


def _rule(number: int, job: str) -> dict[str, Any]:
    from tests.support.rules import spec

    fields = {"ruleId": f"on-order-{number}", "eventType": f"order.kind-{number % EVENT_TYPES}", "taskName": job}
    return dict(spec(**fields, condition="payload.amount > 1000").canonical())


def _days() -> None:
    """Make the days of events, as the timers' role would have done one by one."""
    from triggers.ingest.partitions import ensure_days

    now = datetime.now(UTC)
    for day in range(EVENT_DAYS + 1, -1, -1):
        ensure_days(now - timedelta(days=day))


#: Filled in with numbers alone. A run's state follows from the last digits of its id, the newest ones are open.
_STATEMENTS: Final = (
    "create temporary table the_job on commit drop as select j.*, row_number() over (order by j.id desc) - 1 as place"
    " from orchestrator_job j",
    "create index on the_job (place)",
    # The runs of a job are the more, the later it comes in the list: the last tenant's are the few.
    """
insert into orchestrator_jobrun (tenant_id, job_id, version_id, trigger_key, trigger, parameters, logical_date, priority,
       state, reason, created_at, started_at, ended_at, pause_reason, stop_state, stop_reason, event_id)
select j.tenant_id, j.id, j.latest_version_id, 'made:' || n,
       case n % 4 when 0 then '{{"kind": "api", "by": "token:pipeline"}}'::jsonb
                  when 1 then '{{"kind": "cli", "by": "cli:ada"}}'::jsonb
                  else jsonb_build_object('type', 'event', 'rule', 'on-order-' || n % 500, 'event_id', n) end,
       '{{"day": "2027-01-31", "table": "orders", "rows": 1200}}', at, 2, state,
       case state when 'failed' then 'task step_4 failed' when 'cancelled' then 'user:ada: not needed today' else '' end,
       at, case when state <> 'pending' then at + interval '1 second' end,
       case when state not in ('pending', 'running') then at + interval '5 minutes' end, '', '', '',
       case when n % 4 > 1 then n end
  from (select n, now() - ({runs} - n) * (interval '{run_days} days' / {runs}) as at,
               floor({jobs} * power(random(), 0.6))::int as place,
               case when n > {runs} - {pending} then 'pending'
                    when n > {runs} - {pending} - {running} then 'running'
                    when n % 25 = 7 then 'failed' when n % 200 = 3 then 'cancelled' when n % 2000 = 5 then 'timed_out'
                    else 'succeeded' end as state
          from generate_series(1, {runs}) n) r
  join the_job j on j.place = r.place order by n""",
    """
insert into orchestrator_taskrun (run_id, position, task_id, state, reason, fencing_token, attempt_count, lost_count,
       open_upstreams, lock_count, ready_at, started_at, ended_at, planned_at, hint_published_at, hint_count, worker,
       stop_reason, result_ref, lease_until, result)
select run_id, position, task_id, state,
       case state when 'failed' then 'exit code 1: the disk is full' when 'upstream_failed' then 'step_4 failed'
                  else '' end,
       tried, tried, case when tried > 1 then 1 else 0 end, 0, 0,
       case when state <> 'waiting' then at end, case when tried > 0 then at + interval '1 second' end,
       case when state not in ('waiting', 'ready', 'running') then at + interval '20 seconds' end,
       case when state not in ('waiting', 'ready', 'running') then at + interval '20 seconds' end,
       at, 1, case when tried > 0 then 'w' || task_id % 60 || '@host-' || task_id % 8 else '' end, '', '',
       case when state = 'running' then now() + interval '1 minute' end,
       case when state = 'succeeded' then '{{"rows": 1200}}'::jsonb end
  from (select *, case when state in ('succeeded', 'failed', 'running', 'timed_out')
                       then 1 + (run_id % 20 = position)::int else 0 end as tried
          from (select r.id as run_id, t.position, t.id as task_id, r.created_at + t.position * interval '25 seconds' as at,
                       case when r.state = 'succeeded' then 'succeeded'
                            when t.position < 4 then 'succeeded'
                            when t.position = 4 then case r.state when 'running' then 'running' when 'failed' then 'failed'
                                                     when 'timed_out' then 'timed_out' else 'cancelled' end
                            when r.state = 'failed' then 'upstream_failed'
                            when r.state = 'running' then case when t.position = 5 then 'ready' else 'waiting' end
                            else 'cancelled' end as state
                  from orchestrator_jobrun r join orchestrator_task t on t.version_id = r.version_id
                 where r.state <> 'pending') x) y
 order by run_id, position""",
    """
insert into orchestrator_attempt (task_run_id, number, token, state, reason, failure_kind, worker, started_at, ended_at,
       exit_code)
select t.id, n, n,
       case when n < t.attempt_count then case when t.id % 100 = 5 then 'lost' else 'failed' end else t.state end,
       case when n < t.attempt_count then 'exit code 2: could not connect' else t.reason end,
       '', t.worker, t.started_at,
       case when n < t.attempt_count or t.state <> 'running' then coalesce(t.ended_at, now()) end,
       case when t.state = 'succeeded' and n = t.attempt_count then 0 when t.state <> 'running' then 1 end
  from orchestrator_taskrun t, generate_series(1, t.attempt_count) n where t.attempt_count > 0 order by t.id, n""",
    """
insert into orchestrator_transition (at, subject, subject_id, run_id, from_state, to_state, reason, cause, by)
select at, subject, subject_id, run_id, old, new, '', cause, by
  from (select t.ready_at as at, 'task_run' as subject, t.id as subject_id, t.run_id, 'waiting' as old, 'ready' as new,
               'plan' as cause, '' as by from orchestrator_taskrun t where t.ready_at is not null
        union all
        select t.started_at, 'task_run', t.id, t.run_id, 'ready', 'running', 'claim', t.worker
          from orchestrator_taskrun t where t.started_at is not null
        union all
        select t.ended_at, 'task_run', t.id, t.run_id, 'running', t.state, 'settle', t.worker
          from orchestrator_taskrun t where t.ended_at is not null
        union all
        select created_at, 'run', id, id, '', 'pending', 'trigger', 'token:pipeline' from orchestrator_jobrun
        union all
        select started_at, 'run', id, id, 'pending', 'running', 'launch', '' from orchestrator_jobrun
         where started_at is not null
        union all
        select ended_at, 'run', id, id, 'running', state, 'advance', '' from orchestrator_jobrun
         where ended_at is not null) facts
 order by at""",
    """
insert into orchestrator_transition (at, subject, subject_id, from_state, to_state, reason, cause, by)
select now() - n * interval '1 hour', case n % 3 when 0 then 'job' when 1 then 'secret' else 'rule' end, 1 + n % 300, '',
       'paused', '', 'command', 'user:ada'
  from generate_series(1, {run_days} * 24) n""",
    """
insert into orchestrator_lockrequest (task_run_id, lock_id, priority, asked_at, granted_at)
select t.id, l.id, 2, t.ready_at, case when t.state = 'running' then t.started_at end
  from orchestrator_taskrun t cross join lateral (select id from orchestrator_lock order by id offset t.id % 300 limit 1) l
 where t.state in ('ready', 'running')""",
    """
insert into triggers_event (tenant_id, event_source_id, received_at, source, message_id, event_type, event_time,
       destination, priority, trace_id, schema, version, channel, part, off, ordering_key, depth, payload, metadata,
       headers, state, not_fired)
select s.tenant_id, s.id, at, 'order-service', 'msg-' || n, 'order.kind-' || n % {types}, at, '', '', 'trace-' || n, '',
       '', 'kafka:' || s.slug, s.slug || '/0', n, '', 0,
       jsonb_build_object('orderId', 'order-' || n, 'amount', n % 2000, 'customer', 'customer-' || n % 999, 'status', 'NEW'),
       '{{}}', '{{}}', case when n % 6 = 0 then 'matched' when n % 50000 = 7 then 'expired' else 'no_match' end, '[]'
  from (select n, now() - ({events} - n) * (interval '{event_days} days' / {events}) as at
          from generate_series(1, {events}) n) e
  cross join lateral (select * from triggers_eventsource order by id offset e.n % 30 limit 1) s
 order by n""",
    """
insert into triggers_firing (tenant_id, rule_id, rule_version, event_id, replay_no, outcome, reason, job_run_id, stage,
       generation, created_at)
select e.tenant_id, r.id, 1, e.id, 0, outcome,
       case outcome when 'suppressed' then 'deduplicated: the same key within 10 minutes' when 'fired' then ''
                    else 'the payload has no amount' end,
       case when outcome = 'fired' then e.id % {runs} + 1 end, '', 0, e.received_at
  from (select id, tenant_id, received_at,
               case when id % 30 = 0 then 'suppressed' when id % 3000 = 6 then 'error' else 'fired' end as outcome
          from triggers_event where state = 'matched') e
  cross join lateral (select id from triggers_triggerrule order by id offset e.id % 500 limit 1) r
 order by e.id""",
    """
insert into triggers_deadletter (tenant_id, event_source_id, identity, channel, part, off, message_id, reason, error, raw,
       headers, first_seen, last_seen, tries, state, resolved_by)
select s.tenant_id, s.id, md5('letter' || n)::uuid, 'kafka:' || s.slug, s.slug || '/0', n, 'bad-' || n,
       case when n % 9 = 0 then 'too_large' else 'malformed' end, 'not JSON: unexpected end of data', '{{"orderId": ', '{{}}',
       at, at, 1, case when n % 20 = 0 then 'open' else 'discarded' end, ''
  from (select n, now() - ({letters} - n) * (interval '{event_days} days' / {letters}) as at
          from generate_series(1, {letters}) n) l
  cross join lateral (select * from triggers_eventsource order by id offset l.n % 30 limit 1) s
 order by n""",
    """
insert into triggers_replay (tenant_id, by, idempotency_key, fingerprint, selection, rules, dry_run, state, reason,
       position, until, counts, samples, created_at, ended_at)
select t.id, 'user:ada', 'made-' || n, '', jsonb_build_object('events', jsonb_build_array(n)), '[]', n % 2 = 0, 'done', '',
       n, n, '{{"fired": 1}}', '[]', now() - n * interval '1 hour', now() - n * interval '1 hour'
  from generate_series(1, 500) n cross join lateral (select id from orchestrator_tenant order by id limit 1) t""",
    """
insert into orchestrator_auditrecord (at, tenant_id, by, action, subject, subject_id, subject_name, before, after, reason,
       surface)
select now() - ({records} - n) * (interval '{run_days} days' / {records}), j.tenant_id, 'user:person-' || n % 300,
       case n % 3 when 0 then 'run.cancel' when 1 then 'run.rerun' else 'job.update' end,
       case n % 3 when 2 then 'job' else 'run' end, case n % 3 when 2 then j.id else n end, j.name,
       '{{"paused": false}}', '{{"paused": true}}', 'maintenance of the lake', case n % 2 when 0 then 'admin' else 'api' end
  from generate_series(1, {records}) n join the_job j on j.place = n % 500""",
)


def main(arguments: list[str]) -> int:
    """Fill the database of UPBEAT_DATABASE_URL and print what it takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.history", description="Fill an empty database.")
    parser.add_argument("--runs", type=int, default=100_000, help="each of ten task runs; default 100,000")
    parser.add_argument("--events", type=int, help="default: three for each run")
    given = parser.parse_args(arguments)
    if not os.environ.get("UPBEAT_DATABASE_URL"):
        print("UPBEAT_DATABASE_URL names the database that is to be filled; it is not set.", file=sys.stderr)
        return 2
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator.settings.embedded")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    began = time.monotonic()
    sizes = fill(runs=given.runs, events=given.events)
    print(f"{given.runs:,} runs, {given.runs * TASKS:,} task runs in {time.monotonic() - began:.0f} s")
    for name, megabytes in sizes.items():
        if megabytes >= 1:
            print(f"{megabytes:10,.0f} MB  {name}  ({megabytes * 1e6 / given.runs:,.0f} bytes a run)")
    print(f"{sum(sizes.values()):10,.0f} MB  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
