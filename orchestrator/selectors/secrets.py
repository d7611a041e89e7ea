"""Secrets as one tenant sees them: names and who changed them, never values; and what names a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast

from orchestrator.models import Job, JobRun, Secret, Tenant
from orchestrator.registry import secret_users
from orchestrator.selectors.pages import Page, page_of
from orchestrator.states import RUN_FINAL


def secrets_of(tenant_id: int, *, after: str | None = None, limit: int = 50) -> Page[Secret]:
    """Return a page of secrets by name, without their values."""
    rows = _shown(tenant_id)
    if after is not None:
        rows = rows.filter(name__gt=after)
    return page_of(rows.order_by("name"), limit=limit, cursor_of=lambda secret: secret.name)


def secret_of(tenant_id: int, name: str) -> Secret | None:
    """Return a secret without its value, or None."""
    return _shown(tenant_id).filter(name=name).first()


def users_of_secret(tenant: Tenant, name: str) -> list[str]:
    """Say what names a secret: latest versions of jobs, the tenant's parameters, open runs, what siblings add."""
    users = [
        f"the job {job}"
        for job, spec in mentioning(
            Job.objects.filter(tenant=tenant, archived_at=None), "latest_version__spec", name
        ).values_list("name", "latest_version__spec")
        if _names(spec.get("parameters", ()), name)
    ]
    if _names(tenant.parameters, name):
        users.append("the tenant's parameters")
    open_runs = JobRun.objects.filter(tenant=tenant).exclude(state__in=RUN_FINAL)
    for run, parameters in mentioning(open_runs, "parameters", name).values_list("pk", "parameters").order_by("pk"):
        if _names(parameters, name):
            users.append(f"run {run}")
    return [*users, *(user for users_of in secret_users for user in users_of(tenant.pk, name))]


def mentioning(rows: QuerySet, column: str, name: str) -> QuerySet:
    """Return the rows whose JSON column has this text somewhere: few enough to be looked at one by one."""
    return rows.annotate(_text=Cast(column, TextField())).filter(_text__contains=f'"{name}"').order_by("pk")


def _names(value: Any, name: str) -> bool:
    return any(each == {"secret": name} for each in _mappings(value))


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)


def _shown(tenant_id: int) -> QuerySet[Secret]:
    return Secret.objects.filter(tenant_id=tenant_id).defer("ciphertext")
