"""Keeps the pictures of versions: computed once, for all who look at their runs."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models import VersionLayout


def keep_layout(version_id: int, *, method: int, places: Sequence[tuple[int, int]]) -> None:
    """Store where the tasks of a version stand; safe to call twice and by several at once, the last one stays."""
    VersionLayout.objects.bulk_create(
        [VersionLayout(version_id=version_id, method=method, places=[list(place) for place in places])],
        update_conflicts=True,
        unique_fields=["version"],
        update_fields=["method", "places"],
    )
