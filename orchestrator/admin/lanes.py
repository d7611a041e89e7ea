"""Which workers take work from which lane, as they report it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from orchestrator.admin.filters import typed
from orchestrator.admin.mixins import ReadOnlyAdmin, list_link, moment
from orchestrator.console.flower import flower_url, flower_worker_url
from orchestrator.models import LaneWorker, TaskRun
from orchestrator.planning.patience import WORKER_LIVES
from orchestrator.states import TaskState


class Standing(admin.SimpleListFilter):
    """Live, or silent for so long that the worker counts as gone."""

    title = "state"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "live"), ("silent", "silent")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LaneWorker]) -> QuerySet[LaneWorker]:
        oldest = timezone.now() - WORKER_LIVES
        if self.value() == "live":
            return queryset.filter(seen_at__gt=oldest)
        return queryset.filter(seen_at__lte=oldest) if self.value() == "silent" else queryset


@admin.register(LaneWorker)
class LaneWorkerAdmin(ReadOnlyAdmin):
    list_display = ("worker", "lane", "standing", "slots", "seen", "runs_now")
    list_filter = (Standing, typed("lane", paths=("lane",), shown_as="lane", help_text="Such as default"))
    list_filter_submit = True
    empty_says = "Each worker reports here which lanes it takes work from, as soon as it has started."
    search_fields = ("worker", "=lane")
    search_help_text = "Part of a worker's name, or the whole name of a lane"
    ordering = ("lane", "worker")
    list_per_page = 50
    fields = (("worker", "lane"), ("standing", "slots"), ("seen", "runs_now"))
    readonly_fields = ("standing", "seen", "runs_now")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        shown = list(super().get_list_display(request))
        return [*shown, _in_flower(request)] if flower_url(request) else shown

    @display(description="State", label={"live": "success", "silent": "danger"})
    def standing(self, row: LaneWorker) -> str:
        return "live" if row.seen_at > timezone.now() - WORKER_LIVES else "silent"

    @admin.display(description="Runs now")
    def runs_now(self, row: LaneWorker) -> str:
        return list_link(TaskRun, "Show", state=TaskState.RUNNING, worker=row.worker)

    @admin.display(description="Seen", ordering="seen_at")
    def seen(self, row: LaneWorker) -> str:
        return moment(row.seen_at)


def _in_flower(request: HttpRequest) -> Callable[[LaneWorker], SafeString]:
    """Return the column that leads to what a worker does now; what the address is depends on who asks."""

    @admin.display(description="Live view")
    def in_flower(row: LaneWorker) -> SafeString:
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}" target="_blank" rel="noopener">Flower</a>',
            flower_worker_url(request, row.worker),
        )

    return in_flower
