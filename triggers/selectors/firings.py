"""What became of rules on events, as one tenant sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.models import JobRun
from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownFiring
from triggers.models import Firing, TriggerRule


@dataclass(frozen=True, slots=True)
class FiringFilter:
    """Which firings a list shows; what is empty or None does not matter."""

    rule_ids: tuple[int, ...] | None = None
    event_id: int | None = None
    run_id: int | None = None
    replay_no: int | None = None
    outcomes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownFiring:
    """A firing with the name of its rule."""

    firing: Firing
    rule: str


def firings_of(
    tenant_id: int, chosen: FiringFilter, *, before: int | None = None, limit: int = 50
) -> Page[ShownFiring]:
    """Return a page of firings, newest first, with two queries."""
    rows = Firing.objects.filter(tenant_id=tenant_id, **_conditions(chosen)).order_by("-pk")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found: Page[Firing] = page_of(rows, limit=limit, cursor_of=lambda row: row.pk)
    return Page(named(found.items), found.next)


def firing_of(tenant_id: int, firing_id: int) -> ShownFiring:
    """Return a firing; raises UnknownFiring."""
    row = Firing.objects.filter(tenant_id=tenant_id, pk=firing_id).first()
    if row is None:
        raise UnknownFiring(f"There is no firing {firing_id}.")
    return named([row])[0]


def named(rows: Iterable[Firing]) -> list[ShownFiring]:
    """Return firings with the names of their rules, in one query; a rule that is gone has none."""
    rows = list(rows)
    slugs = dict(TriggerRule.objects.filter(pk__in={row.rule_id for row in rows}).values_list("pk", "slug"))
    return [ShownFiring(row, slugs.get(row.rule_id, "")) for row in rows]


def runs_of_event(tenant_id: int, event_id: int, *, most: int = 200) -> list[JobRun]:
    """Return the first runs that an event started, with their jobs."""
    rows = JobRun.objects.filter(tenant_id=tenant_id, event_id=event_id).select_related("job", "version")
    return list(rows.defer("event", "version__spec", "version__source").order_by("pk")[:most])


def _conditions(chosen: FiringFilter) -> dict[str, Any]:
    conditions: dict[str, Any] = {}
    if chosen.rule_ids is not None:
        conditions["rule_id__in"] = chosen.rule_ids
    if chosen.event_id is not None:
        conditions["event_id"] = chosen.event_id
    if chosen.run_id is not None:
        conditions["job_run_id"] = chosen.run_id
    if chosen.replay_no is not None:
        conditions["replay_no"] = chosen.replay_no
    if chosen.outcomes:
        conditions["outcome__in"] = chosen.outcomes
    return conditions
