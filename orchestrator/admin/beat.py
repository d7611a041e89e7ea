"""django-celery-beat's own admin on the theme's classes: without them its inputs have no borders."""

from __future__ import annotations

from django.contrib import admin
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

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
class PeriodicTaskAdmin(beat_admin.PeriodicTaskAdmin, ModelAdmin):
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


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(ModelAdmin):
    list_display = ("__str__", "every", "period")


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(beat_admin.CrontabScheduleAdmin, ModelAdmin):
    pass


@admin.register(SolarSchedule)
class SolarScheduleAdmin(ModelAdmin):
    list_display = ("event", "latitude", "longitude")


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(beat_admin.ClockedScheduleAdmin, ModelAdmin):
    pass
