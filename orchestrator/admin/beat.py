"""django-celery-beat's own admin on the theme's classes: without them its inputs have no borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from orchestrator.admin.audited import Audited
from orchestrator.admin.mixins import clipped, moment, roomy

for _model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(_model)


class _TaskSelect(UnfoldAdminSelectWidget, beat_admin.TaskSelectWidget):
    pass


class PeriodicTaskForm(beat_admin.PeriodicTaskForm):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = _TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(beat_admin.PeriodicTaskAdmin, Audited):
    form = PeriodicTaskForm
    list_display = ("name_shown", "enabled", "schedule_shown", "last_run", "total_run_count", "task_shown")
    list_display_links = ("name_shown",)
    list_filter = ("enabled", "one_off")
    ordering = ("name",)

    @admin.display(description="Name", ordering="name")
    def name_shown(self, row: PeriodicTask) -> str:
        return roomy(row.name)

    @admin.display(description="Task", ordering="task")
    def task_shown(self, row: PeriodicTask) -> str:
        return clipped(row.task)

    @admin.display(description="Schedule")
    def schedule_shown(self, row: PeriodicTask) -> str:
        return clipped(str(row.scheduler or "none: it never runs"))

    @admin.display(description="Last run", ordering="last_run_at")
    def last_run(self, row: PeriodicTask) -> str:
        return moment(row.last_run_at)

    @admin.action(description="Enable selected tasks")
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._recorded(request, queryset, "enable", super().enable_tasks)

    @admin.action(description="Disable selected tasks")
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._recorded(request, queryset, "disable", super().disable_tasks)

    @admin.action(description="Toggle activity of selected tasks")
    def toggle_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._recorded(request, queryset, "toggle", super().toggle_tasks)

    @admin.action(description="Run selected tasks")
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._recorded(request, queryset, "run", super().run_tasks)

    def _recorded(
        self, request: HttpRequest, queryset: QuerySet[PeriodicTask], verb: str, act: Callable[..., Any]
    ) -> None:
        with transaction.atomic():
            rows = list(queryset)
            before = {row.pk: row.enabled for row in rows}
            act(request, queryset)
            after = dict(PeriodicTask.objects.filter(pk__in=before).values_list("pk", "enabled"))
            for row in rows:
                was, now = {"enabled": before[row.pk]}, {"enabled": after.get(row.pk)}
                self.record(request, row, verb, was if was != now else None, now if was != now else None)


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(Audited):
    list_display = ("__str__", "every", "period")


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(beat_admin.CrontabScheduleAdmin, Audited):
    pass


@admin.register(SolarSchedule)
class SolarScheduleAdmin(Audited):
    list_display = ("event", "latitude", "longitude")


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(beat_admin.ClockedScheduleAdmin, Audited):
    pass
