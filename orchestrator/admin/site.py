from __future__ import annotations

from django.urls import URLPattern
from unfold.sites import UnfoldAdminSite


class UpbeatAdminSite(UnfoldAdminSite):
    """The one admin site: theme, login, menu, and the console's pages inside it."""

    index_title = "Upbeat"
    # As our own columns write it.
    empty_value_display = "–"

    def extra_urls(self) -> list[URLPattern]:
        # The site is made before any model is loaded; its addresses are asked for later.
        from orchestrator.console.urls import console_urls

        return console_urls(self)
