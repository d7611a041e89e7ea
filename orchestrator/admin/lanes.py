"""Which workers take work from which lane, as they report it."""

from __future__ import annotations

from django.contrib import admin
from django.utils import timezone
from unfold.decorators import display

from orchestrator.admin.mixins import ReadOnlyAdmin, moment
from orchestrator.models import LaneWorker
from orchestrator.planning.patience import WORKER_LIVES


@admin.register(LaneWorker)
class LaneWorkerAdmin(ReadOnlyAdmin):
    list_display = ("worker", "lane", "standing", "slots", "seen")
    list_filter = ("lane",)
    search_fields = ("worker", "=lane")
    search_help_text = "Part of a worker's name, or the whole name of a lane"
    ordering = ("lane", "worker")
    list_per_page = 50
    fields = (("worker", "lane"), ("standing", "slots"), "seen")
    readonly_fields = ("standing", "seen")

    @display(description="State", label={"live": "success", "silent": "danger"})
    def standing(self, row: LaneWorker) -> str:
        return "live" if row.seen_at > timezone.now() - WORKER_LIVES else "silent"

    @admin.display(description="Seen", ordering="seen_at")
    def seen(self, row: LaneWorker) -> str:
        return moment(row.seen_at)
