"""Connections as one tenant sees them: the URL without its password; and which tasks name a connection."""

from __future__ import annotations

from django.db.models import QuerySet

from orchestrator.models import Connection, Job, JobRun, Tenant
from orchestrator.selectors.pages import Page, page_of
from orchestrator.selectors.secrets import mentioning
from orchestrator.states import RUN_FINAL


def connections_of(tenant_id: int, *, after: str | None = None, limit: int = 50) -> Page[Connection]:
    """Return a page of connections by name."""
    rows = _shown(tenant_id)
    if after is not None:
        rows = rows.filter(name__gt=after)
    return page_of(rows.order_by("name"), limit=limit, cursor_of=lambda connection: connection.name)


def connection_of(tenant_id: int, name: str) -> Connection | None:
    """Return a connection, or None."""
    return _shown(tenant_id).filter(name=name).first()


def users_of_connection(tenant: Tenant, name: str) -> list[str]:
    """Say which jobs have a task that names a connection, and which runs that have not ended."""
    jobs = mentioning(Job.objects.filter(tenant=tenant, archived_at=None), "latest_version__spec", name)
    users = [
        f"the job {job}" for job, spec in jobs.values_list("name", "latest_version__spec") if _has_task(spec, name)
    ]
    runs = mentioning(JobRun.objects.filter(tenant=tenant).exclude(state__in=RUN_FINAL), "version__spec", name)
    users += [f"run {run}" for run, spec in runs.values_list("pk", "version__spec") if _has_task(spec, name)]
    return users


def _has_task(spec: dict, name: str) -> bool:
    return any(task.get("config", {}).get("connection") == name for task in spec.get("tasks", ()))


def _shown(tenant_id: int) -> QuerySet[Connection]:
    return Connection.objects.filter(tenant_id=tenant_id).defer("ciphertext")
