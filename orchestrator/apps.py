from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class AdminConfig(admin_apps.AdminConfig):
    """Django's admin, on the one site of `admin/site.py`."""

    default = False
    default_site = "orchestrator.admin.site.UpbeatAdminSite"

    def ready(self) -> None:
        super().ready()
        # After the discovery: some of these replace what other packages registered. Not from the package's own
        # `__init__`, which runs while the site is being made, and would register on another one.
        from orchestrator.admin import (  # noqa: F401
            audit,
            beat,
            jobs,
            lanes,
            locks,
            people,
            runs,
            secrets,
            templates,
            tenants,
        )


class OrchestratorConfig(AppConfig):
    name = "orchestrator"
    default = True
    verbose_name = "Orchestrator"

    def ready(self) -> None:
        # The Celery app must exist before any thread publishes; checks register themselves on import.
        from orchestrator import celery, checks, migrating  # noqa: F401  imports models, so not before the registry is ready
        from orchestrator.services import definitions  # noqa: F401  registers the kinds that `apply` knows

        migrating.watch(self)
