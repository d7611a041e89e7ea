from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from orchestrator.models.tenants import Tenant
from orchestrator.roles import Role


class RoleGrant(models.Model):
    """What a person may do in a tenant; without a tenant, in every one. `orchestrator.roles` says what a role may."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="role_grants")
    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="role_grants",
        help_text="Empty: every tenant, also those that are still to come.",
    )
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "tenant"], name="role_grant_unique"),
            models.UniqueConstraint(
                fields=["user"], condition=Q(tenant__isnull=True), name="role_grant_everywhere_unique"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.role}"
