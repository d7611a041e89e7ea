from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, describe, limit, page, query
from orchestrator.api.serializers.jobs import (
    JobAnswer,
    VersionAnswer,
    VersionWithSpecAnswer,
    job_answer,
    version_answer,
)
from orchestrator.api.serializers.runs import ReasonCall
from orchestrator.api.views.base import ApiView, base_url, choices, number_cursor, page_answer
from orchestrator.models import Job
from orchestrator.selectors import jobs as selectors
from orchestrator.services import jobs as services
from orchestrator.services.tokens import ADMIN, OPERATE, READ, check_scope


class JobView(ApiView):
    """Base of what is about one job, by id or name."""

    def job(self, reference: str, scope: str = READ) -> Job:
        found = selectors.job_of(self.tenant_id, reference)
        check_scope(self.token, scope, found.name)
        return found


class JobList(ApiView):
    """Jobs, by name."""

    @describe(
        "list_jobs",
        "List jobs",
        page(JobAnswer, "JobPage"),
        parameters=[
            query("name", "The job of this name."),
            query("tag", "Jobs with this tag."),
            query("archived", "Archived jobs instead of the others.", OpenApiTypes.BOOL, default=False),
            limit(50, 200),
            CURSOR,
        ],
        tag="jobs",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("name", "tag", "archived", "limit", "cursor"))
        found = selectors.jobs_of(
            self.tenant_id,
            names=self.token.job_names,
            name=asked.get("name"),
            tag=asked.get("tag"),
            archived="true" in choices(asked.get("archived"), "archived", ("true", "false")),
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda job: job_answer(job, base))


class JobDetail(JobView):
    """One job."""

    @describe("get_job", "Read a job", JobAnswer, tag="jobs")
    def get(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(job_answer(self.job(job), base_url(request)))


class VersionList(JobView):
    """The versions of a job, newest first."""

    @describe(
        "list_versions",
        "List the versions of a job",
        page(VersionAnswer, "VersionPage"),
        parameters=[limit(50, 200), CURSOR],
        tag="jobs",
    )
    def get(self, request: Request, job: str) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.versions_of(
            self.job(job),
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, version_answer)


class VersionDetail(JobView):
    """One version with its spec."""

    @describe("get_version", "Read a version of a job", VersionWithSpecAnswer, tag="jobs")
    def get(self, request: Request, job: str, number: int) -> HttpResponse:
        bodies.check_query(request, ())
        version = selectors.version_of(self.job(job), number)
        return answer({**version_answer(version), "spec": version.spec})


class VersionText(JobView):
    """A version as it was written."""

    @describe(
        "get_version_text",
        "Read the definition of a version as it was written",
        OpenApiResponse(OpenApiTypes.STR),
        tag="jobs",
    )
    def get(self, request: Request, job: str, number: int) -> HttpResponse:
        bodies.check_query(request, ())
        version = selectors.version_of(self.job(job), number)
        return HttpResponse(version.source, content_type="text/plain; charset=utf-8")


class JobCommand(JobView):
    """Base of the commands on a job: a reason in, the job out."""

    scope = OPERATE

    def after(self, request: Request, job: Job) -> HttpResponse:
        return answer(job_answer(selectors.job_of(self.tenant_id, str(job.pk)), base_url(request)))


class JobPause(JobCommand):
    """Pause a job: its new runs stay pending, running ones go on."""

    @describe("pause_job", "Pause a job", JobAnswer, call=ReasonCall, refusals=(409,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        found = self.job(job, OPERATE)
        services.pause_job(found, by=self.by, reason=reason)
        return self.after(request, found)


class JobResume(JobCommand):
    """Let a paused job go on: its pending runs are admitted."""

    @describe("resume_job", "Let a paused job go on", JobAnswer, refusals=(409,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        bodies.read_body(request, {})
        found = self.job(job, OPERATE)
        services.resume_job(found, by=self.by)
        return self.after(request, found)


class JobArchive(JobCommand):
    """Archive a job: it starts no more runs."""

    scope = ADMIN

    @describe("archive_job", "Archive a job", JobAnswer, refusals=(409,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        bodies.read_body(request, {})
        found = self.job(job, ADMIN)
        services.archive_job(found, by=self.by)
        return self.after(request, found)
