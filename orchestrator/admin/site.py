from __future__ import annotations

from unfold.sites import UnfoldAdminSite


class UpbeatAdminSite(UnfoldAdminSite):
    """The one admin site: theme, login, menu."""

    index_title = "Upbeat"
    # As our own columns write it.
    empty_value_display = "–"
