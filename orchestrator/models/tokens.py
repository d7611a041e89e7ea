from __future__ import annotations

from django.db import models

from orchestrator.models.runs import JobRun
from orchestrator.models.tenants import Tenant


class ApiToken(models.Model):
    """A bearer token of a tenant; only its SHA-256 is stored, the token itself is shown once."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="tokens")
    name = models.CharField(max_length=200)
    #: The first characters, so that people can tell tokens apart.
    prefix = models.CharField(max_length=12)
    digest = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField(default=list)
    #: Names of the jobs it is good for; empty: all.
    job_names = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API token"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class IdempotencyKey(models.Model):
    """A key that a token used within its last 24 hours, and the run it started."""

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=200)
    #: SHA-256 of job and parameters: the same key with others is refused.
    fingerprint = models.CharField(max_length=64)
    run = models.ForeignKey(JobRun, on_delete=models.CASCADE, null=True, related_name="+")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["token", "key"], name="idempotency_key_unique")]

    def __str__(self) -> str:
        return self.key


class RateWindow(models.Model):
    """Calls of a token within one minute, counted by all web processes."""

    token = models.OneToOneField(ApiToken, on_delete=models.CASCADE, related_name="+", primary_key=True)
    minute = models.BigIntegerField(help_text="Minutes since 1970.")
    calls = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.token_id}: {self.calls}"
