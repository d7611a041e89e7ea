"""Keeps the pictures of versions: computed once, for all who look at their runs."""

from __future__ import annotations

from typing import Any

from orchestrator.models import VersionLayout


def keep_layout(version_id: int, *, method: int, picture: dict[str, Any]) -> None:
    """Store where the tasks of a version stand; safe to call twice and by several at once, the last one stays."""
    VersionLayout.objects.bulk_create(
        [VersionLayout(version_id=version_id, method=method, places=picture)],
        update_conflicts=True,
        unique_fields=["version"],
        update_fields=["method", "places"],
    )
