from __future__ import annotations

from django.db import models
from django.db.models import Q

from orchestrator.models.runs import TaskRun
from orchestrator.models.tenants import Tenant


class Lock(models.Model):
    """A named resource that at most `capacity` attempts hold at once. Made on first use with capacity 1."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="locks", db_index=False)
    name = models.CharField(max_length=100)
    capacity = models.PositiveIntegerField(default=1)
    description = models.CharField(max_length=500, blank=True, default="", db_default="")
    updated_by = models.CharField(max_length=200, blank=True, default="", db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], name="lock_name_unique_in_tenant"),
            models.CheckConstraint(condition=Q(capacity__gte=1), name="lock_capacity_positive"),
        ]

    def __str__(self) -> str:
        return self.name


class LockRequest(models.Model):
    """A task run that waits for a lock or, once granted, holds it. Grants are made before publishing.

    Grant and hint time lie here, so that the transaction that frees a lock touches no other run's TaskRun.
    """

    task_run = models.ForeignKey(TaskRun, on_delete=models.CASCADE, related_name="lock_requests", db_index=False)
    lock = models.ForeignKey(Lock, on_delete=models.PROTECT, related_name="requests", db_index=False)
    priority = models.PositiveSmallIntegerField()
    asked_at = models.DateTimeField()
    granted_at = models.DateTimeField(null=True)
    #: Set when the holder's lease expired: its process may live a little longer, so the lock is free only then.
    release_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["task_run", "lock"], name="lock_request_unique")]
        indexes = [
            # The queue of a lock, in the order of grants.
            models.Index(
                fields=["lock", "priority", "asked_at", "id"],
                condition=Q(granted_at__isnull=True),
                name="lock_request_waiting",
            ),
            models.Index(fields=["lock"], condition=Q(granted_at__isnull=False), name="lock_request_granted"),
        ]

    def __str__(self) -> str:
        return f"{self.lock_id} for task run {self.task_run_id}"
