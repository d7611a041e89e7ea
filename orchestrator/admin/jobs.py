"""Jobs and versions: written by `apply` alone; here to read, pause, resume, archive and restore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from orchestrator.admin.compare import ComparesVersions
from orchestrator.admin.mixins import ReadOnlyAdmin, as_json, as_text, clipped, link, list_link, moment, roomy
from orchestrator.admin.steering import SteersJobs
from orchestrator.models import Job, JobRun, JobVersion


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
    list_display = ("name_shown", "standing", "tenant", "latest", "runs", "updated", "owner_shown", "tags_shown")
    list_filter = (
        ("paused_at", admin.EmptyFieldListFilter),
        ("archived_at", admin.EmptyFieldListFilter),
        HiddenJobs,
    )
    search_fields = ("name", "description", "owner", "=tenant__slug")
    search_help_text = "Part of a name, description or owner, or the whole name of a tenant"
    list_select_related = ("tenant", "latest_version")
    ordering = ("name",)
    list_per_page = 50
    fields = (
        ("name", "tenant"),
        "description",
        ("owner", "tags_shown"),
        ("latest", "concurrency"),
        ("standing", "archived_at", "managed_by"),
        ("paused_by", "pause_reason"),
        ("created_at", "updated_at"),
        ("runs", "versions"),
    )
    readonly_fields = ("standing", "latest", "tags_shown", "concurrency", "runs", "versions")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return super().get_queryset(request).defer("latest_version__spec", "latest_version__source")

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
    search_fields = ("=job__name", "comment")
    search_help_text = "Whole name of a job, or part of a comment"
    list_select_related = ("job",)
    ordering = ("-pk",)
    actions = ("compare",)
    fields = (
        ("job", "number"),
        ("task_count", "content_hash"),
        ("author", "created_at"),
        "comment",
        "compare_with_previous",
        "source_shown",
        "spec_shown",
    )
    readonly_fields = ("compare_with_previous", "source_shown", "spec_shown")

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobVersion]:
        versions = super().get_queryset(request)
        is_list = request.resolver_match is not None and (request.resolver_match.url_name or "").endswith("changelist")
        return versions.defer("spec", "source") if is_list else versions

    @admin.display(description="Job")
    def job_link(self, row: JobVersion) -> str:
        return link(row.job)

    @admin.display(description="Comment")
    def comment_shown(self, row: JobVersion) -> str:
        return clipped(row.comment)

    @admin.display(description="Runs")
    def runs(self, row: JobVersion) -> str:
        return list_link(JobRun, "Show", version__id__exact=row.pk)

    @admin.display(description="Version")
    def version(self, row: JobVersion) -> str:
        return f"v{row.number}"

    @admin.display(description="Created")
    def created(self, row: JobVersion) -> str:
        return moment(row.created_at)

    @admin.display(description="Definition")
    def source_shown(self, row: JobVersion) -> str:
        return as_text(row.source)

    @admin.display(description="Spec, without defaults")
    def spec_shown(self, row: JobVersion) -> str:
        return as_json(row.spec)
