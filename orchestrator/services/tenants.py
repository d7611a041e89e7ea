"""What a tenant may reach: the private networks that its `http` tasks are allowed, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from django.db import transaction

from orchestrator.errors import Detail, InvalidRequest
from orchestrator.models import Tenant
from orchestrator.services.audit import changed, record_audit
from orchestrator.services.transitions import record_transition

EXPECTED = "a network such as 10.1.0.0/16 or fd12::/32, without bits behind its prefix"


def allowed_networks(tenant_id: int) -> tuple[str, ...]:
    """Return the private networks that the tenant's `http` tasks may reach, as CIDR."""
    networks = Tenant.objects.values_list("allowed_networks", flat=True).get(pk=tenant_id)
    return tuple(networks or ())


def checked_networks(networks: Iterable[str]) -> list[str]:
    """Return networks in their canonical form, each once; raises InvalidRequest naming those that are none."""
    found: dict[str, None] = {}
    problems: list[Detail] = []
    for index, text in enumerate(networks):
        try:
            # A plain address is a network of one. Bits behind the prefix are a typing error that opens more than meant.
            found[str(ip_network(text.strip()))] = None
        except (ValueError, AttributeError):
            problems.append(Detail(f"allowed_networks[{index}]", text, EXPECTED))
    if problems:
        named = ", ".join(repr(problem.value) for problem in problems[:5])
        raise InvalidRequest(f"No networks: {named}; expected {EXPECTED}.", details=tuple(problems))
    return list(found)


def allow_networks(tenant: Tenant, *, networks: Iterable[str], by: str, reason: str = "") -> list[str]:
    """Replace the tenant's allowed networks and return them; attempts that start afterwards see them. Safe to repeat.

    Raises InvalidRequest; then nothing is changed.
    """
    allowed = checked_networks(networks)
    with transaction.atomic():
        before = list(Tenant.objects.select_for_update().get(pk=tenant.pk).allowed_networks)
        tenant.allowed_networks = allowed
        if before == allowed:
            return allowed
        tenant.save(update_fields=["allowed_networks"])
        record_transition(
            subject="tenant",
            subject_id=tenant.pk,
            to_state="networks_set",
            reason=reason or f"private networks of {tenant.slug}: {_listed(allowed)}, before {_listed(before)}",
            cause="allowed networks set",
            by=by,
        )
        record_audit(
            action="tenant.update", subject="tenant", subject_id=tenant.pk, subject_name=tenant.slug,
            tenant_id=tenant.pk, by=by, before={"allowed_networks": before}, after={"allowed_networks": allowed},
            reason=reason,
        )  # fmt: skip
    return allowed


def shown_of(tenant: Tenant) -> dict[str, Any]:
    """Return what a record says of a tenant beside its networks."""
    return {"slug": tenant.slug, "name": tenant.name, "timezone": tenant.timezone, "parameters": tenant.parameters}


def save_tenant(tenant: Tenant, *, by: str, reason: str = "") -> Tenant:
    """Store a new tenant, or what was changed of one; its networks are set by `allow_networks` alone."""
    with transaction.atomic():
        before: Mapping[str, Any] = {}
        if tenant.pk is not None:
            stored = Tenant.objects.select_for_update().get(pk=tenant.pk)
            before = shown_of(stored)
            tenant.save(update_fields=list(before))
        else:
            tenant.allowed_networks = []
            tenant.save()
        old, new = changed(before, shown_of(tenant))
        if new:
            record_audit(
                action="tenant.update" if before else "tenant.create", subject="tenant", subject_id=tenant.pk,
                subject_name=tenant.slug, tenant_id=tenant.pk, by=by, before=old if before else None, after=new,
                reason=reason,
            )  # fmt: skip
    return tenant


def _listed(networks: list[str]) -> str:
    return ", ".join(networks[:10]) + (" …" if len(networks) > 10 else "") if networks else "none"
