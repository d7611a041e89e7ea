"""The addresses of the console, mounted in the admin's."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import URLPattern, register_converter

from orchestrator.console.pages import page_urls, register_page
from orchestrator.console.views.commands import CommandConverter, CommandPage
from orchestrator.console.views.editor import DefinitionPage, NewJobPage
from orchestrator.console.views.logs import AttemptLog
from orchestrator.console.views.overview import OverviewPage
from orchestrator.console.views.run import Drawing, RunPage, TaskPanel, Transitions
from orchestrator.console.views.trigger import TriggerPage

register_converter(CommandConverter, "run_command")


def console_urls(site: AdminSite) -> list[URLPattern]:
    """Return the pages of this package and those that siblings have registered, behind the site's login."""
    # In place of the theme's own first page.
    register_page("", OverviewPage, name="index")
    register_page("runs/<int:run_id>/", RunPage, name="console_run")
    register_page("runs/<int:run_id>/tasks/<int:position>/", TaskPanel, name="console_task")
    register_page("runs/<int:run_id>/transitions/", Transitions, name="console_transitions")
    register_page("runs/<int:run_id>/attempts/<int:attempt_id>/log/", AttemptLog, name="console_log")
    register_page("drawings/<int:version_id>/<str:format>/", Drawing, name="console_drawing")
    register_page("runs/<int:run_id>/<run_command:command>/", CommandPage, name="console_command")
    register_page("jobs/new/", NewJobPage, name="console_job_new")
    register_page("jobs/<int:job_id>/definition/", DefinitionPage, name="console_job_definition")
    register_page("jobs/<int:job_id>/trigger/", TriggerPage, name="console_trigger")
    return page_urls(site, site.admin_view)
