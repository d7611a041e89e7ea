from __future__ import annotations

from django.db import models

from orchestrator.models.tenants import Tenant


class Template(models.Model):
    """A task with typed parameters, from which jobs are created; a job keeps nothing of it but what it was given."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="templates", db_index=False)
    name = models.CharField(max_length=63)
    description = models.TextField(blank=True, default="")
    parameters = models.JSONField(default=list, blank=True)
    task_definition = models.JSONField(default=dict)
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="template_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name
