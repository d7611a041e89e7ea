from __future__ import annotations

from django.db import models


class Tenant(models.Model):
    """Who owns jobs, runs, secrets and tokens. The tenant `default` exists from the first migration on."""

    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200, blank=True)
    timezone = models.CharField(max_length=63, default="UTC", help_text="IANA name; `execution_date` is a day in it.")
    parameters = models.JSONField(default=dict, blank=True, help_text="Values of parameters that a job leaves open.")
    allowed_networks = models.JSONField(
        default=list,
        blank=True,
        db_default=[],
        help_text="Private networks that `http` tasks may reach, as CIDR, such as `10.1.0.0/16`.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug
