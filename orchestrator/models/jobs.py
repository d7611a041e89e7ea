from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from orchestrator.models.tenants import Tenant


class Job(models.Model):
    """What can run. Its content lies in versions; here is what may change without one: pause and archive."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=63)
    description = models.TextField(blank=True, default="")
    owner = models.CharField(max_length=200, blank=True, default="")
    tags = models.JSONField(default=list, blank=True)
    #: The version that the next run takes; null only inside the transaction that creates the job.
    latest_version = models.ForeignKey("JobVersion", on_delete=models.PROTECT, null=True, related_name="+")
    concurrency_limit = models.PositiveIntegerField(null=True)
    when_full = models.CharField(max_length=16, default="queue")
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.CharField(max_length=200, blank=True, default="")
    pause_reason = models.CharField(max_length=500, blank=True, default="")
    archived_at = models.DateTimeField(null=True, blank=True)
    #: Who owns a hidden job, such as `rule:order-created-trigger`; it is changed through its owner alone.
    managed_by = models.CharField(max_length=100, blank=True, default="", db_default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], name="job_name_unique_in_tenant"),
            models.CheckConstraint(
                condition=Q(when_full__in=["queue", "skip", "cancel_running"]), name="job_when_full_known"
            ),
            models.CheckConstraint(
                condition=Q(concurrency_limit__isnull=True) | Q(concurrency_limit__gte=1), name="job_limit_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class JobVersion(models.Model):
    """An immutable version of a job, identified by the hash of its canonical spec."""

    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    content_hash = models.CharField(max_length=64)
    spec = models.JSONField(help_text="The canonical spec.")
    source = models.TextField(blank=True, default="", help_text="The definition as it was written.")
    comment = models.CharField(max_length=500, blank=True, default="")
    author = models.CharField(max_length=200, blank=True, default="")
    task_count = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="job_version_number_unique"),
            models.UniqueConstraint(fields=["job", "content_hash"], name="job_version_content_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.job.name} v{self.number}"


class VersionLayout(models.Model):
    """Where the tasks of a version stand in its picture: computed once, when somebody first looks at it."""

    version = models.OneToOneField(JobVersion, on_delete=models.CASCADE, primary_key=True, related_name="layout")
    #: That of `console/layout.py` by which it was made; another is computed again.
    method = models.PositiveSmallIntegerField()
    #: `{"places": [[x, y], …], "bends": {"<edge>": [[x, y], …]}}`: by position of the task, by index of the edge.
    places = models.JSONField()

    def __str__(self) -> str:
        return str(self.version)


class Task(models.Model):
    """A task of a version: the columns that set-based statements need; all else is in the version's spec."""

    version = models.ForeignKey(JobVersion, on_delete=models.CASCADE, related_name="tasks")
    #: Topological: every upstream task has a smaller position. Row locks are taken in this order.
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=63)
    type = models.CharField(max_length=63)
    join = models.CharField(max_length=3, default="all")
    upstream_count = models.PositiveIntegerField(default=0)
    downstream_count = models.PositiveIntegerField(default=0)
    priority = models.PositiveSmallIntegerField(default=2)
    pool = models.CharField(max_length=63, default="default")
    timeout_seconds = models.FloatField(default=3600)
    queue_timeout_seconds = models.FloatField(null=True)
    lock_count = models.PositiveSmallIntegerField(default=0)
    idempotent = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "position"], name="task_position_unique"),
            models.UniqueConstraint(fields=["version", "name"], name="task_name_unique"),
            models.CheckConstraint(condition=Q(priority__lte=3), name="task_priority_known"),
            models.CheckConstraint(condition=Q(join__in=["all", "any"]), name="task_join_known"),
        ]

    def __str__(self) -> str:
        return self.name


class Dependency(models.Model):
    """An edge of a version, between two positions."""

    version = models.ForeignKey(JobVersion, on_delete=models.CASCADE, related_name="dependencies")
    upstream_position = models.PositiveIntegerField()
    downstream_position = models.PositiveIntegerField()
    status = models.CharField(max_length=8, default="success")
    when = models.TextField(blank=True, default="")
    recovers = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "dependencies"
        constraints = [
            models.UniqueConstraint(
                fields=["version", "downstream_position", "upstream_position"], name="dependency_unique"
            ),
            # Positions are topological, so this alone excludes every cycle.
            models.CheckConstraint(
                condition=Q(upstream_position__lt=F("downstream_position")), name="dependency_goes_down"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["success", "failed", "done", "skipped"]), name="dependency_status_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.upstream_position} → {self.downstream_position}"
