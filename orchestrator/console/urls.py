"""The addresses of the console, mounted in the admin's."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import URLPattern

from orchestrator.console.pages import page_urls, register_page
from orchestrator.console.views.run import RunPage


def console_urls(site: AdminSite) -> list[URLPattern]:
    """Return the pages of this package and those that siblings have registered, behind the site's login."""
    register_page("runs/<int:run_id>/", RunPage, name="console_run")
    return page_urls(site, site.admin_view)
