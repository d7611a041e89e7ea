"""Replays as one tenant sees them."""

from __future__ import annotations

from orchestrator.selectors.pages import Page, page_of
from triggers.errors import UnknownReplay
from triggers.models import Replay


def replays_of(
    tenant_id: int, *, states: tuple[str, ...] = (), before: int | None = None, limit: int = 50
) -> Page[Replay]:
    """Return a page of replays, newest first."""
    rows = Replay.objects.filter(tenant_id=tenant_id).order_by("-pk")
    if states:
        rows = rows.filter(state__in=states)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return page_of(rows, limit=limit, cursor_of=lambda row: row.pk)


def replay_of(tenant_id: int, replay_id: int) -> Replay:
    """Return a replay; raises UnknownReplay."""
    row = Replay.objects.filter(tenant_id=tenant_id, pk=replay_id).first()
    if row is None:
        raise UnknownReplay(f"There is no replay {replay_id}.")
    return row
