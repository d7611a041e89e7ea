"""What the ledger itself knows: the tenant, who leads, which lanes are served, and whether tasks are taken in time."""

from __future__ import annotations

from typing import Final

from django.db.models.functions import Now

from orchestrator.diagnosis.workers import lanes
from orchestrator.models import Lease, Tenant
from orchestrator.registry import Finding
from orchestrator.selectors.overview import overview

#: A ready task that no worker took for so long: either none runs, or all are busy.
STALE_READY_SECONDS: Final = 60
#: Role → what waits while nobody has it.
LED: Final = {
    "beat": "periodic tasks",
    "reconciler": "lost messages, due retries and what killed workers left",
}


def findings(tenant: str) -> list[Finding]:
    return [_tenant(tenant), *leaders(), lanes(), _ready_tasks()]


def _tenant(slug: str) -> Finding:
    if Tenant.objects.filter(slug=slug).exists():
        return Finding("tenant", ok=True, detail=slug)
    return Finding("tenant", ok=False, detail=f"there is no tenant {slug!r}", hint="Add it in the admin.")


def leaders() -> list[Finding]:
    """Say for beat and reconciler whether somebody leads, by the clock that decides it."""
    held = {lease.name: lease for lease in Lease.objects.filter(name__in=LED, expires_at__gt=Now())}
    return [
        Finding(f"{name} leader", ok=True, detail=f"there is one (epoch {held[name].epoch})")
        if name in held
        else Finding(
            f"{name} leader",
            ok=False,
            detail=f"nobody leads: {waits} wait",
            hint="Start beat, twice so that one can take over; in the embedded profile, `make demo`.",
        )
        for name, waits in LED.items()
    ]


def _ready_tasks() -> Finding:
    now = overview()
    detail = f"{now.ready_tasks} ready, {now.running_tasks} running"
    if now.oldest_ready_seconds < STALE_READY_SECONDS:
        return Finding("tasks", ok=True, detail=detail)
    return Finding(
        "tasks",
        ok=False,
        detail=f"{detail}; the oldest ready task has waited {now.oldest_ready_seconds:.0f} s",
        hint="Start workers for its pool, or look at its locks in the admin.",
    )
