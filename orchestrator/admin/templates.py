"""Templates: written by the API and by definitions; here to read."""

from __future__ import annotations

from django.contrib import admin

from orchestrator.admin.mixins import ReadOnlyAdmin, TenantFilter, as_json, clipped, moment, roomy
from orchestrator.models import Template


@admin.register(Template)
class TemplateAdmin(ReadOnlyAdmin):
    list_display = (
        "name_shown",
        "tenant",
        "schedule",
        "parameter_names",
        "description_shown",
        "updated",
        "updated_by",
    )
    search_fields = ("name", "description", "=tenant__slug")
    search_help_text = "Part of a name or description, or the whole name of a tenant"
    list_filter = (TenantFilter,)
    empty_says = "A template is a task with typed parameters, from which jobs are made. Apply a file with one, or create it by the API."
    list_select_related = ("tenant",)
    ordering = ("name",)
    list_per_page = 50
    fields = (("name", "tenant"), "description", "parameters_shown", "task_shown", ("updated", "updated_by"))
    readonly_fields = ("parameters_shown", "task_shown", "updated")

    @admin.display(description="Name", ordering="name")
    def name_shown(self, row: Template) -> str:
        return roomy(row.name)

    @admin.display(description="Schedule")
    def schedule(self, row: Template) -> str:
        schedule = row.task_definition.get("schedule") or {}
        return " ".join(str(schedule[key]) for key in ("cron", "timezone") if schedule.get(key)) or "–"

    @admin.display(description="Parameters")
    def parameter_names(self, row: Template) -> str:
        return clipped(", ".join(str(parameter.get("name")) for parameter in row.parameters))

    @admin.display(description="Description")
    def description_shown(self, row: Template) -> str:
        return clipped(row.description)

    @admin.display(description="Parameters")
    def parameters_shown(self, row: Template) -> str:
        return as_json(row.parameters)

    @admin.display(description="Task")
    def task_shown(self, row: Template) -> str:
        return as_json(row.task_definition)

    @admin.display(description="Updated", ordering="updated_at")
    def updated(self, row: Template) -> str:
        return moment(row.updated_at)
