"""Rows for every list and page of the admin: a model that is registered there needs its rows in `fill`."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import Group, User
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from orchestrator.models import (
    Connection,
    JobRun,
    LaneWorker,
    Lease,
    Lock,
    LockRequest,
    RoleGrant,
    Secret,
    Template,
    Tenant,
)
from orchestrator.roles import Role
from orchestrator.services.audit import record_audit
from orchestrator.states import AttemptState, TaskState
from tests.support.event_records import (
    new_event,
    new_firing,
    new_letter,
    new_listener,
    new_replay,
    new_rule,
    new_source,
)
from tests.support.records import new_attempt, new_job, new_run, new_task_run, new_token, new_transition

LONG = "killed by the system because it used more memory than its limit of 512 MiB " * 6


def fill(first: int, count: int) -> None:
    """Give every list `count` rows more, each pointing at rows of its own: what asks once a row shows."""
    now = timezone.now()
    for number in range(first, first + count):
        tenant = Tenant.objects.create(slug=f"team-{number}")
        job = new_job(f"export-of-all-customer-orders-to-the-lake-{number}", tenant=tenant)
        run = new_run(job, reason=LONG, rerun_of=JobRun.objects.first(), trigger={"kind": "api", "by": "token:ci"})
        task_run = new_task_run(run, 0, TaskState.TIMED_OUT, attempt_count=1, worker="worker@host.internal.example.com")
        new_attempt(task_run, AttemptState.LOST, reason=LONG, worker="worker@host.internal.example.com")
        new_transition(run, "running", "timed_out", subject="task_run", subject_id=task_run.pk, reason=LONG)
        lock = Lock.objects.create(tenant=tenant, name=f"db-{number}", description=LONG)
        LockRequest.objects.create(task_run=task_run, lock=lock, priority=1, asked_at=now, granted_at=now)
        Secret.objects.create(tenant=tenant, name="warehouse", ciphertext=b"x")
        Connection.objects.create(
            tenant=tenant, name="warehouse", ciphertext=b"x", shown_url=f"postgresql://{'x' * 200}", description=LONG
        )
        Template.objects.create(
            tenant=tenant,
            name="copy",
            description=LONG,
            parameters=[{"name": "table"}],
            task_definition={"type": "shell"},
        )
        new_token(name=f"ci-{number}", tenant=tenant)
        Lease.objects.create(name=f"role-{number}", expires_at=now)
        LaneWorker.objects.create(lane="default", worker=f"worker@{number}", seen_at=now - timedelta(seconds=number))
        person = User.objects.create(username=f"ada-{number}")
        RoleGrant.objects.create(user=person, tenant=tenant, role=Role.EDITOR)
        record_audit(
            action="job.update", subject="job", subject_id=job.pk, subject_name=job.name, tenant_id=tenant.pk,
            by=f"user:ada-{number}", before={"version": 1}, after={"version": 2, "changes": [LONG]}, reason=LONG,
        )  # fmt: skip
        Group.objects.create(name=f"team-{number}")
        interval = IntervalSchedule.objects.create(every=number + 1, period="minutes")
        CrontabSchedule.objects.create(minute=str(number))
        ClockedSchedule.objects.create(clocked_time=now + timedelta(hours=number))
        SolarSchedule.objects.create(event="sunrise", latitude=number, longitude=0)
        rule = new_rule(tenant=tenant, ruleName=LONG[:200], description=LONG)
        source = new_source(tenant=tenant)
        event = new_event(tenant=tenant, event_source=source, event_type=LONG[:200], message_id=LONG, state="no_match")
        new_firing(rule, event, "held", reason=LONG, job_run_id=run.pk, release_at=now, expires_at=now)
        new_letter(tenant=tenant, event_source=source, error=LONG, message_id=LONG)
        new_replay(event)
        new_listener(source, reason=LONG)
        PeriodicTask.objects.create(
            name=f"clean up {number}", task="app.clean_up_all_temporary_tables", interval=interval, last_run_at=now
        )
