"""Named locks: their definition, who holds them, who waits; a stuck holder is released here, with a reason."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from orchestrator.admin.filters import Chosen
from orchestrator.admin.mixins import (
    NOT_YOURS,
    STATE_COLOURS,
    LedgerAdmin,
    TenantFilter,
    TenantScoped,
    clipped,
    link,
    list_link,
    moment,
    state_word,
)
from orchestrator.errors import UpbeatError
from orchestrator.models import JobRun, Lock, LockRequest, TaskRun
from orchestrator.selectors.locks import LockUse, Use, counted, use_of
from orchestrator.services.locks import release_holder, set_lock


class LockForm(forms.ModelForm):
    class Meta:
        model = Lock
        fields = ("tenant", "name", "capacity", "description")

    def clean_capacity(self) -> int:
        capacity: int = self.cleaned_data["capacity"]
        if capacity < 1:
            raise forms.ValidationError("At least one attempt must be able to hold it.")
        return capacity


class InUse(admin.SimpleListFilter):
    """Locks that somebody holds, or for which somebody waits."""

    title = "use"
    parameter_name = "use"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("held", "held"), ("waiting", "with waiters"), ("free", "free")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lock]) -> QuerySet[Lock]:
        asked = LockRequest.objects.filter(lock=OuterRef("pk"))
        if self.value() == "free":
            return queryset.filter(~Exists(asked))
        if self.value() in ("held", "waiting"):
            return queryset.filter(Exists(asked.filter(granted_at__isnull=self.value() == "waiting")))
        return queryset


@admin.register(Lock)
class LockAdmin(TenantScoped):
    form = LockForm
    list_display = ("name", "tenant", "capacity", "held", "waiting", "description_shown", "requests_link")
    list_filter = (InUse, TenantFilter)
    empty_says = "A lock lets at most so many tasks run at once as its capacity says. Tasks name it under `locks`; one that nobody defined is made on first use, with capacity 1."
    search_fields = ("name", "=tenant__slug")
    search_help_text = "Part of a name, or the whole name of a tenant"
    list_select_related = ("tenant",)
    ordering = ("name",)
    fields = (("tenant", "name"), ("capacity", "description"), "updated_by", "holders", "waiters", "requests_link")

    def get_readonly_fields(self, request: HttpRequest, obj: Lock | None = None) -> tuple[str, ...]:
        shown = ("updated_by", "holders", "waiters", "requests_link")
        # Task runs point to it by its name alone.
        return ("tenant", "name", *shown) if obj else shown

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lock]:
        return counted(super().get_queryset(request))

    @admin.display(description="Description")
    def description_shown(self, row: Lock) -> str:
        return clipped(row.description)

    @admin.display(description="Held")
    def held(self, row: Any) -> int:
        return row.held

    @admin.display(description="Waiting")
    def waiting(self, row: Any) -> int:
        return row.waiting

    @admin.display(description="Holders and waiters")
    def requests_link(self, row: Lock) -> str:
        return list_link(LockRequest, "Show, and release a holder", lock__id__exact=row.pk) if row.pk else "–"

    @admin.display(description="Holders")
    def holders(self, row: Lock) -> SafeString | str:
        return _lines(_use_once(row).holders, "holds it since") if row.pk else "–"

    @admin.display(description="Waiters, the next first")
    def waiters(self, row: Lock) -> SafeString | str:
        return _lines(_use_once(row).waiters, "waits since") if row.pk else "–"

    def has_delete_permission(self, request: HttpRequest, obj: Lock | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Lock, form: Any, change: bool) -> None:
        stored = set_lock(
            tenant=obj.tenant,
            name=obj.name,
            capacity=obj.capacity,
            description=obj.description,
            by=f"user:{request.user.get_username()}",
        )
        obj.pk = stored.lock.pk


def _use_once(row: Any) -> LockUse:
    # Read once for a page, which asks more than once; the row lives no longer than it.
    if not hasattr(row, "use"):
        row.use = use_of(row)
    found: LockUse = row.use
    return found


def _lines(uses: tuple[Use, ...], since: str) -> SafeString | str:
    if not uses:
        return "–"
    return format_html_join(
        "",
        "<div>{} {} {} · {} {} {}</div>",
        (
            (
                f"{use.position}." if use.position else "",
                link(TaskRun(pk=use.task_run_id), f"{use.job} #{use.run_id} {use.task}"),
                f"({use.state}, P{use.priority})",
                since,
                moment(use.since),
                use.worker,
            )
            for use in uses
        ),
    )


class ReleaseForm(ActionForm):
    """The choice of an action, and why."""

    reason = forms.CharField(
        required=False,
        max_length=400,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Why", "aria-label": "Why"}),
    )


class StandingOfRequest(admin.SimpleListFilter):
    """Who holds, who waits, and holders whose worker vanished."""

    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("holds", "holds"), ("waits", "waits"), ("vanished", "vanished")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LockRequest]) -> QuerySet[LockRequest]:
        if self.value() == "waits":
            return queryset.filter(granted_at__isnull=True)
        if self.value() in ("holds", "vanished"):
            return queryset.filter(granted_at__isnull=False, release_at__isnull=self.value() == "holds")
        return queryset


@admin.register(LockRequest)
class LockRequestAdmin(LedgerAdmin):
    action_form = ReleaseForm
    actions = ("release",)
    list_display = (
        "lock_link",
        "standing",
        "task_run_link",
        "state_label",
        "priority_shown",
        "asked",
        "granted",
        "free",
    )
    list_display_links = ("standing",)
    list_filter = (StandingOfRequest, ("lock", Chosen), ("task_run__run__job", Chosen), TenantFilter)
    list_filter_submit = True
    empty_says = "No task holds a lock or waits for one now."
    search_fields = ("=lock__name", "=task_run__run__id")
    search_help_text = "Whole name of a lock, or id of a run"
    list_select_related = ("lock", "task_run__task", "task_run__run__job")
    fields = ("lock_link", "standing", "task_run_link", "state_label", "priority_shown", "asked", "granted", "free")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[LockRequest]:
        return super().get_queryset(request).defer("task_run__run__event", "task_run__result")

    @admin.display(description="Lock")
    def lock_link(self, row: LockRequest) -> str:
        return link(row.lock)

    @display(description="Standing", label={"holds": "info", "waits": "warning", "vanished": "danger"})
    def standing(self, row: LockRequest) -> str:
        if row.granted_at is None:
            return "waits"
        return "vanished" if row.release_at else "holds"

    @admin.display(description="Task run")
    def task_run_link(self, row: LockRequest) -> SafeString:
        run: JobRun = row.task_run.run
        return format_html(
            "{} of {}", link(row.task_run, row.task_run.task.name), link(run, f"{run.job.name} #{run.pk}")
        )

    @display(description="Task's state", label=STATE_COLOURS)
    def state_label(self, row: LockRequest) -> str:
        return state_word(row.task_run.state)

    @admin.display(description="Priority")
    def priority_shown(self, row: LockRequest) -> str:
        return f"P{row.priority}"

    @admin.display(description="Asked")
    def asked(self, row: LockRequest) -> str:
        return moment(row.asked_at)

    @admin.display(description="Granted")
    def granted(self, row: LockRequest) -> str:
        return moment(row.granted_at)

    @admin.display(description="Free by itself at")
    def free(self, row: LockRequest) -> str:
        return moment(row.release_at)

    def has_release_permission(self, request: HttpRequest) -> bool:
        return self.allows(request, "steer")

    @admin.action(description="Release the chosen holders", permissions=["release"])
    def release(self, request: HttpRequest, chosen: QuerySet[LockRequest]) -> None:
        reason = str(request.POST.get("reason") or "").strip()[:400]
        if not reason:
            self.message_user(request, "A lock is not released without a reason: say why.", messages.WARNING)
            return
        by = f"user:{request.user.get_username()}"
        rows = chosen.order_by("pk").select_related("lock")
        allowed, refused = self.split(request, rows, "orchestrator.steer_lockrequest")
        for row in refused:
            self.message_user(request, f"{row.lock.name}: {NOT_YOURS}", messages.WARNING)
        for row in allowed:
            lock = row.lock
            try:
                released = release_holder(
                    tenant_id=lock.tenant_id, name=lock.name, task_run_id=row.task_run_id, by=by, reason=reason
                )
            except UpbeatError as error:
                self.message_user(request, error.message, messages.WARNING)
            else:
                self.message_user(request, f"Released: {released.text}.", messages.SUCCESS)
