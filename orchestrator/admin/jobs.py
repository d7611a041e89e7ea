"""Jobs and versions: to read and to steer, and the ways to the form that starts runs and to the editor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from orchestrator.admin.compare import ComparesVersions
from orchestrator.admin.filters import Chosen
from orchestrator.admin.lists import is_list
from orchestrator.admin.mixins import (
    ReadOnlyAdmin,
    TenantFilter,
    as_json,
    as_text,
    clipped,
    link,
    list_link,
    moment,
    roomy,
)
from orchestrator.admin.steering import SteersJobs
from orchestrator.models import Job, JobRun, JobVersion
from orchestrator.services.editing import text_to_edit

#: Characters of a definition on the page of a job or version; beyond, its beginning.
SHOWN_TEXT = 100_000


class HiddenJobs(admin.SimpleListFilter):
    """Leaves the jobs out that rules own, unless they are asked for."""

    title = "hidden"
    parameter_name = "hidden"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Hidden jobs of rules"), ("all", "All")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        first, *others = super().choices(changelist)
        yield {**first, "display": "Not hidden"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if self.value() == "all":
            return queryset
        return queryset.exclude(managed_by="") if self.value() == "yes" else queryset.filter(managed_by="")


@admin.register(Job)
class JobAdmin(SteersJobs):
    list_display = (
        "name_shown",
        "standing",
        "start",
        "tenant",
        "latest",
        "runs",
        "updated",
        "owner_shown",
        "tags_shown",
    )
    actions_list = ("new_job",)
    actions_detail = ("trigger_job", "edit_definition", "copy_job")
    list_filter = (
        ("paused_at", admin.EmptyFieldListFilter),
        ("archived_at", admin.EmptyFieldListFilter),
        HiddenJobs,
        TenantFilter,
    )
    empty_says = "A job says what runs and in which order. Add one here, or apply a file: `manage.py apply job.yaml`."
    search_fields = ("name", "description", "owner", "=tenant__slug")
    search_help_text = "Part of a name, description or owner, or the whole name of a tenant"
    list_select_related = ("tenant", "latest_version")
    ordering = ("name",)
    list_per_page = 50
    fields = (
        ("name", "tenant"),
        "description",
        ("owner", "tags_shown"),
        ("standing", "concurrency"),
        ("latest", "versions"),
        ("runs", "managed_by"),
        ("paused_at", "paused_by", "pause_reason"),
        ("created_at", "updated_at", "archived_at"),
        "definition",
    )
    readonly_fields = ("standing", "latest", "tags_shown", "concurrency", "runs", "versions", "definition")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        jobs = super().get_queryset(request)
        return jobs.defer("latest_version__spec", "latest_version__source") if is_list(request) else jobs

    def has_define_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.allows(request, "change", self._job(object_id))

    def has_trigger_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.allows(request, "trigger", self._job(object_id))

    def has_new_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.allows(request, "add")

    @action(description="New job", url_path="new-job", permissions=["new"], icon="add", variant=ActionVariant.PRIMARY)
    def new_job(self, request: HttpRequest) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:console_job_new"))

    @action(
        description="Trigger", url_path="trigger-job", permissions=["trigger"], icon="play_arrow",
        variant=ActionVariant.PRIMARY,
    )  # fmt: skip
    def trigger_job(self, request: HttpRequest, object_id: int) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:console_trigger", args=[object_id]))

    @action(description="Edit", url_path="edit-definition", permissions=["define"], icon="edit")
    def edit_definition(self, request: HttpRequest, object_id: int) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:console_job_definition", args=[object_id]))

    @action(description="Copy", url_path="copy-job", permissions=["new"], icon="content_copy")
    def copy_job(self, request: HttpRequest, object_id: int) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:console_job_new") + f"?copy={int(object_id)}")

    def _job(self, object_id: Any) -> Job | None:
        return Job.objects.only("pk", "tenant_id").filter(pk=object_id).first() if object_id else None

    @admin.display(description="Start")
    def start(self, job: Job) -> str:
        if job.archived_at is not None:
            return "–"
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500 whitespace-nowrap" href="{}" aria-label="Trigger {}">Trigger</a>',
            reverse("admin:console_trigger", args=[job.pk]),
            job.name,
        )

    @admin.display(description="Definition")
    def definition(self, job: Job) -> str:
        version = job.latest_version
        if version is None:
            return "–"
        text = text_to_edit(version)
        if len(text) > SHOWN_TEXT:
            return as_text(text[:SHOWN_TEXT] + "\n… the rest is in the editor")
        return as_text(text)

    @admin.display(description="Name", ordering="name")
    def name_shown(self, job: Job) -> str:
        return roomy(job.name)

    @admin.display(description="Owner", ordering="owner")
    def owner_shown(self, job: Job) -> str:
        return clipped(job.owner, rem=8)

    @display(description="State", label={"active": "success", "paused": "warning", "archived": "danger"})
    def standing(self, job: Job) -> str:
        return "archived" if job.archived_at else "paused" if job.paused_at else "active"

    @admin.display(description="Version")
    def latest(self, job: Job) -> str:
        version = job.latest_version
        return link(version, f"v{version.number}") if version else "–"

    @admin.display(description="Tags")
    def tags_shown(self, job: Job) -> str:
        return clipped(", ".join(job.tags), rem=8)

    @admin.display(description="Concurrency")
    def concurrency(self, job: Job) -> str:
        return f"{job.concurrency_limit}, then {job.when_full}" if job.concurrency_limit else "no limit"

    @admin.display(description="Updated")
    def updated(self, job: Job) -> str:
        return moment(job.updated_at)

    @admin.display(description="Runs")
    def runs(self, job: Job) -> str:
        return list_link(JobRun, "Show", job__id__exact=job.pk)

    @admin.display(description="Versions")
    def versions(self, job: Job) -> str:
        return list_link(JobVersion, "Show", job__id__exact=job.pk)


@admin.register(JobVersion)
class JobVersionAdmin(ComparesVersions, ReadOnlyAdmin):
    list_display = ("version", "job_link", "task_count", "author", "comment_shown", "created", "runs")
    list_filter = (("job", Chosen), TenantFilter)
    list_filter_submit = True
    empty_says = "Each change of a job is kept here as a version of its own. Apply a definition to make the first."
    search_fields = ("=job__name", "comment")
    search_help_text = "Whole name of a job, or part of a comment"
    list_select_related = ("job",)
    ordering = ("-pk",)
    actions = ("compare",)
    actions_detail = ("open_editor",)
    fields = (
        ("job", "number"),
        ("task_count", "hash_shown"),
        ("author", "created_at"),
        "comment",
        "compare_with_previous",
        "source_shown",
        "spec_shown",
    )
    readonly_fields = ("compare_with_previous", "hash_shown", "source_shown", "spec_shown")

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobVersion]:
        versions = super().get_queryset(request)
        return versions.defer("spec", "source") if is_list(request) else versions

    @admin.display(description="Job")
    def job_link(self, row: JobVersion) -> str:
        return link(row.job)

    @admin.display(description="Comment")
    def comment_shown(self, row: JobVersion) -> str:
        return clipped(row.comment)

    @admin.display(description="Runs")
    def runs(self, row: JobVersion) -> str:
        return list_link(JobRun, "Show", version__id__exact=row.pk)

    @admin.display(description="Content hash")
    def hash_shown(self, row: JobVersion) -> str:
        return as_text(row.content_hash)

    @admin.display(description="Version")
    def version(self, row: JobVersion) -> str:
        return f"v{row.number}"

    @admin.display(description="Created")
    def created(self, row: JobVersion) -> str:
        return moment(row.created_at)

    @admin.display(description="Definition")
    def source_shown(self, row: JobVersion) -> str:
        return as_text(row.source[:SHOWN_TEXT] + ("\n… and more" if len(row.source) > SHOWN_TEXT else ""))

    @action(description="Open in the editor", url_path="open-editor", permissions=["define"], icon="edit")
    def open_editor(self, request: HttpRequest, object_id: int) -> HttpResponseRedirect:
        version = self.get_object(request, str(object_id))
        if version is None:
            return HttpResponseRedirect(reverse("admin:orchestrator_jobversion_changelist"))
        editor = reverse("admin:console_job_definition", args=[version.job_id])
        return HttpResponseRedirect(f"{editor}?version={version.number}")

    def has_define_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        row = JobVersion.objects.select_related("job").only("pk", "job__tenant_id").filter(pk=object_id).first()
        return self.allows(request, "change", row)

    @admin.display(description="Spec, without defaults")
    def spec_shown(self, row: JobVersion) -> str:
        return as_json(row.spec)
