"""The addresses of the console, mounted in the admin's."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import URLPattern, register_converter

from orchestrator.console.pages import page_urls, register_page
from orchestrator.console.views.commands import CommandConverter, CommandPage
from orchestrator.console.views.run import RunPage

register_converter(CommandConverter, "run_command")


def console_urls(site: AdminSite) -> list[URLPattern]:
    """Return the pages of this package and those that siblings have registered, behind the site's login."""
    register_page("runs/<int:run_id>/", RunPage, name="console_run")
    register_page("runs/<int:run_id>/<run_command:command>/", CommandPage, name="console_command")
    return page_urls(site, site.admin_view)
