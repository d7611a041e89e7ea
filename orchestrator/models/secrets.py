from __future__ import annotations

from django.db import models

from orchestrator.models.tenants import Tenant


class Secret(models.Model):
    """A named secret, encrypted at rest; jobs and runs hold its name only."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="secrets", db_index=False)
    name = models.CharField(max_length=100)
    ciphertext = models.BinaryField()
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="secret_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name


class Connection(models.Model):
    """A named way into another system, such as a database: its URL is encrypted at rest, tasks hold its name only."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="connections", db_index=False)
    name = models.CharField(max_length=100)
    ciphertext = models.BinaryField()
    #: The URL without its password, for people.
    shown_url = models.CharField(max_length=500)
    description = models.CharField(max_length=500, blank=True, default="")
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="connection_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name
