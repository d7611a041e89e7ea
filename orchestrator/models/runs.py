from __future__ import annotations

from django.db import models
from django.db.models import Q

from orchestrator.models.jobs import Job, JobVersion, Task
from orchestrator.models.tenants import Tenant
from orchestrator.states import ATTEMPT_FINAL, TASK_FINAL, TASK_OPEN, AttemptState, RunState, TaskState

PRIORITIES = ("P0", "P1", "P2", "P3")


class JobRun(models.Model):
    """One execution of a version: `pending` until admission lets it run, then final once and for all."""

    # One key that the database holds is enough: who has a job has its tenant and its versions, none of which is ever
    # deleted. The other two would cost each run of an event a sixth of what storing it costs.
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False)
    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="runs", db_index=False)
    version = models.ForeignKey(JobVersion, on_delete=models.PROTECT, related_name="runs", db_constraint=False)
    #: What makes the same event, tick or idempotency key start one run only.
    trigger_key = models.CharField(max_length=200)
    trigger = models.JSONField(default=dict)
    parameters = models.JSONField(default=dict)
    event = models.JSONField(null=True)
    logical_date = models.DateTimeField()
    priority = models.PositiveSmallIntegerField(default=2)
    state = models.CharField(max_length=16, default=RunState.PENDING)
    reason = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    paused_at = models.DateTimeField(null=True)
    paused_by = models.CharField(max_length=200, blank=True, default="", db_default="")
    pause_reason = models.CharField(max_length=500, blank=True, default="")
    stop_requested_at = models.DateTimeField(null=True)
    #: What the run becomes when its last attempt has ended: cancelled or timed_out.
    stop_state = models.CharField(max_length=16, blank=True, default="")
    stop_reason = models.CharField(max_length=500, blank=True, default="")
    rerun_of = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="reruns")
    #: The event that started it. A plain number: events are the triggers' own, and are dropped before runs.
    event_id = models.BigIntegerField(null=True)
    #: Admission policy that came with a rule. Runs of one key start strictly in the order of their ids, at most
    #: `admission_limit` at a time; what does not fit is queued, or dropped.
    admission_key = models.UUIDField(null=True)
    admission_limit = models.PositiveIntegerField(null=True)
    admission_drop = models.BooleanField(default=False, db_default=False)
    #: Ends `cancelled (job_paused)` where a run without it waits for the job to be resumed.
    drop_when_paused = models.BooleanField(default=False, db_default=False)
    #: A run that is still pending then ends `cancelled (expired)`.
    expires_at = models.DateTimeField(null=True)
    #: Where its chain of events and runs began, how long it is, and the rules in it: against rules that trigger
    #: themselves.
    root_event_id = models.BigIntegerField(null=True)
    depth = models.PositiveSmallIntegerField(default=0, db_default=0)
    rule_chain = models.JSONField(default=list, db_default=[])

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "trigger_key"], name="run_trigger_key_unique"),
            models.CheckConstraint(condition=Q(state__in=list(RunState)), name="run_state_known"),
            models.CheckConstraint(condition=Q(priority__lte=3), name="run_priority_known"),
        ]
        indexes = [
            # Lists of a job's runs, newest first; admission counts and picks within a job.
            models.Index(fields=["job", "-id"], name="run_of_job"),
            models.Index(
                fields=["job", "state", "priority", "id"],
                condition=Q(state__in=[RunState.PENDING, RunState.RUNNING]),
                name="run_open_of_job",
            ),
            # The reconciler's steps and the deadline timer.
            models.Index(
                fields=["state", "id"], condition=Q(state__in=[RunState.PENDING, RunState.RUNNING]), name="run_open"
            ),
            models.Index(fields=["deadline_at"], condition=Q(state=RunState.RUNNING), name="run_deadline"),
            # Admission by key: how many of a key are open, and which of them is the oldest.
            models.Index(
                fields=["admission_key", "state", "id"],
                condition=Q(admission_key__isnull=False, state__in=[RunState.PENDING, RunState.RUNNING]),
                name="run_of_admission_key",
            ),
            models.Index(
                fields=["expires_at"],
                condition=Q(state=RunState.PENDING, expires_at__isnull=False),
                name="run_expiry",
            ),
            # Runs that nobody has looked at yet: back-pressure counts them.
            models.Index(fields=["created_at"], condition=Q(state=RunState.PENDING, reason=""), name="run_unlaunched"),
            # The runs of a day and how they stand, for the overview; lists by the time of creation.
            models.Index(fields=["created_at", "tenant", "state"], name="run_created"),
            # Lists: the newest runs of a tenant; those that ended badly, which are few among many.
            models.Index(fields=["tenant", "-id"], name="run_of_tenant"),
            models.Index(
                fields=["state", "-id"],
                condition=Q(state__in=[RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT]),
                name="run_ended_badly",
            ),
            # From an event to its runs.
            models.Index(fields=["event_id"], condition=Q(event_id__isnull=False), name="run_of_event"),
        ]

    def __str__(self) -> str:
        return f"{self.job.name} #{self.pk}"


class Fragment(models.Model):
    """A fan-out that was compiled into one chord: its headers are the task runs that point here."""

    run = models.ForeignKey(JobRun, on_delete=models.CASCADE, related_name="fragments")
    size = models.PositiveIntegerField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"fragment {self.pk} of run {self.run_id}"


class TaskRun(models.Model):
    """One execution of a task within a run. Inserted at admission, in topological order."""

    run = models.ForeignKey(JobRun, on_delete=models.CASCADE, related_name="task_runs", db_index=False)
    position = models.PositiveIntegerField()
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="+", db_index=False)
    state = models.CharField(max_length=16, default=TaskState.WAITING)
    reason = models.CharField(max_length=500, blank=True, default="")
    #: Counts claims; who holds the latest number may write the outcome, nobody else.
    fencing_token = models.PositiveIntegerField(default=0)
    attempt_count = models.PositiveIntegerField(default=0)
    lost_count = models.PositiveIntegerField(default=0)
    #: Dependencies not yet decided: a filter for the planner, which decides from the upstream states.
    open_upstreams = models.PositiveIntegerField(default=0)
    lock_count = models.PositiveSmallIntegerField(default=0)
    ready_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    #: Set once, by the transaction that planned what follows this final task.
    planned_at = models.DateTimeField(null=True)
    hint_published_at = models.DateTimeField(null=True)
    hint_count = models.PositiveIntegerField(default=0)
    fragment = models.ForeignKey(Fragment, on_delete=models.SET_NULL, null=True, related_name="headers", db_index=False)
    fragment_index = models.PositiveIntegerField(null=True)
    worker = models.CharField(max_length=200, blank=True, default="")
    stop_requested_at = models.DateTimeField(null=True)
    stop_reason = models.CharField(max_length=500, blank=True, default="")
    result = models.JSONField(null=True)
    #: A result over 16 KiB lies in the store under this digest.
    result_ref = models.CharField(max_length=100, blank=True, default="")
    carried_from = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="task_run_position_unique"),
            models.CheckConstraint(condition=Q(state__in=list(TaskState)), name="task_run_state_known"),
            models.CheckConstraint(
                condition=Q(state__in=sorted(TASK_FINAL), ended_at__isnull=False)
                | Q(state__in=sorted(TASK_OPEN), ended_at__isnull=True),
                name="task_run_final_has_ended",
            ),
        ]
        indexes = [
            # "Is the run over?" and the oldest ready task.
            models.Index(fields=["run"], condition=Q(state__in=sorted(TASK_OPEN)), name="task_run_open"),
            # `advance`: final tasks whose downstream nobody planned.
            models.Index(
                fields=["run", "position"],
                condition=Q(ended_at__isnull=False, planned_at__isnull=True),
                name="task_run_unplanned",
            ),
            # The reconciler: lost hints, expired leases, due timers.
            models.Index(fields=["hint_published_at"], condition=Q(state=TaskState.READY), name="task_run_hint"),
            models.Index(fields=["lease_until"], condition=Q(state=TaskState.RUNNING), name="task_run_lease"),
            # The task that has waited longest, for the overview.
            models.Index(fields=["ready_at"], condition=Q(state=TaskState.READY), name="task_run_ready"),
            models.Index(
                fields=["due_at"],
                condition=Q(state__in=[TaskState.RETRY_WAITING, TaskState.DEFERRED]),
                name="task_run_due",
            ),
            # Lists, newest run first: what did not succeed. A task that does is never written here.
            models.Index(
                fields=["state", "-run", "position"],
                condition=Q(state__in=sorted(TASK_FINAL - {TaskState.SUCCEEDED})),
                name="task_run_ended_badly",
            ),
            # `expand` reads a slice of a fragment.
            models.Index(
                fields=["fragment", "fragment_index"], condition=Q(fragment__isnull=False), name="task_run_fragment"
            ),
            # Deleting a task run asks who was carried from it; without this, each one by reading the whole table.
            models.Index(
                fields=["carried_from"], condition=Q(carried_from__isnull=False), name="task_run_carried_from"
            ),
        ]

    def __str__(self) -> str:
        return f"task run {self.pk}"


class Attempt(models.Model):
    """One try by one worker under one lease: inserted by its claim, closed by its outcome."""

    task_run = models.ForeignKey(TaskRun, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    token = models.PositiveIntegerField()
    state = models.CharField(max_length=16, default=AttemptState.RUNNING)
    reason = models.CharField(max_length=500, blank=True, default="")
    failure_kind = models.CharField(max_length=16, blank=True, default="")
    worker = models.CharField(max_length=200, blank=True, default="")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["task_run", "number"], name="attempt_number_unique"),
            models.CheckConstraint(condition=Q(state__in=list(AttemptState)), name="attempt_state_known"),
            models.CheckConstraint(
                condition=Q(state=AttemptState.RUNNING, ended_at__isnull=True)
                | (~Q(state=AttemptState.RUNNING) & Q(ended_at__isnull=False)),
                name="attempt_final_has_ended",
            ),
        ]
        indexes = [
            # Lists: what did not succeed. An attempt that does is never written here.
            models.Index(
                fields=["state", "-task_run"],
                condition=Q(state__in=sorted(ATTEMPT_FINAL - {AttemptState.SUCCEEDED})),
                name="attempt_ended_badly",
            )
        ]

    def __str__(self) -> str:
        return f"attempt {self.number}"
