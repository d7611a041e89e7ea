"""What a tenant may reach: the private networks that its `http` tasks are allowed, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from orchestrator.errors import Detail, InvalidRequest
from orchestrator.models import Tenant

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
        raise InvalidRequest("The networks cannot be used.", details=tuple(problems))
    return list(found)


def allow_networks(tenant: Tenant, *, networks: Iterable[str]) -> list[str]:
    """Replace the tenant's allowed networks and return them; attempts that start afterwards see them. Safe to repeat.

    Raises InvalidRequest; then nothing is changed.
    """
    tenant.allowed_networks = checked_networks(networks)
    tenant.save(update_fields=["allowed_networks"])
    return tenant.allowed_networks
