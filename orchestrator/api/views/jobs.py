from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, answered, describe, example, limit, page, query
from orchestrator.api.serializers.jobs import (
    AppliedAnswer,
    AppliedListAnswer,
    DiffAnswer,
    JobAnswer,
    ValidationAnswer,
    VersionAnswer,
    VersionWithSpecAnswer,
    applied_answer,
    diff_answer,
    job_answer,
    planned_answer,
    validation_answer,
    version_answer,
)
from orchestrator.api.serializers.runs import ReasonCall
from orchestrator.api.views.base import ApiView, base_url, choices, number_cursor, page_answer, schema_answer
from orchestrator.dag.export import export_yaml
from orchestrator.dag.parse import Definition
from orchestrator.dag.spec import JobSpec
from orchestrator.errors import Detail, InvalidDefinition, InvalidRequest, UnknownVersion
from orchestrator.models import Job
from orchestrator.roles import Action
from orchestrator.selectors import jobs as selectors
from orchestrator.services import jobs as services
from orchestrator.services.parameters import schema_of
from orchestrator.services.parsing import read_definitions, valid_definitions
from orchestrator.services.tokens import check_action

YAML: Final = "application/yaml"
DEFINITION: Final = {YAML: OpenApiTypes.STR, "application/json": OpenApiTypes.OBJECT}
_EXAMPLE: Final = {
    "kind": "Job",
    "name": "nightly-etl",
    "schedule": {"cron": "30 1 * * *", "timezone": "Asia/Shanghai"},
    "tasks": [
        {"name": "extract", "type": "shell", "command": "./extract.sh"},
        {"name": "load", "type": "shell", "command": "./load.sh", "depends_on": ["extract"]},
    ],
}
DEFINITION_EXAMPLES: Final = [example("definition", _EXAMPLE, media_type="application/json")]
_APPLY_QUERY: Final = [
    query("comment", "Kept with a new version, at most 500 characters."),
    query("dry_run", "Store nothing; answer what would change, in words.", OpenApiTypes.BOOL, default=False),
]


class JobView(ApiView):
    """Base of what is about one job, by id or name."""

    def job(self, reference: str, action: Action = Action.VIEW) -> Job:
        found = selectors.job_of(self.tenant_id, reference)
        check_action(self.token, action, found.name)
        return found


class JobList(ApiView):
    """Jobs, by name."""

    actions = {"POST": Action.DEFINE}

    @describe(
        "list_jobs",
        "List jobs",
        page(JobAnswer, "JobPage"),
        parameters=[
            query("name", "The job of this name."),
            query("tag", "Jobs with this tag."),
            query("archived", "Archived jobs instead of the others.", OpenApiTypes.BOOL, default=False),
            query("managed", "Hidden jobs that rules own, instead of the others.", OpenApiTypes.BOOL, default=False),
            limit(50, 200),
            CURSOR,
        ],
        tag="jobs",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("name", "tag", "archived", "managed", "limit", "cursor"))
        found = selectors.jobs_of(
            self.tenant_id,
            names=self.token.job_names,
            name=asked.get("name"),
            tag=asked.get("tag"),
            archived="true" in choices(asked.get("archived"), "archived", ("true", "false")),
            managed="true" in choices(asked.get("managed"), "managed", ("true", "false")),
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda job: job_answer(job, base))

    @describe(
        "apply_jobs",
        "Apply definitions, all or none: create jobs or give them new versions",
        AppliedListAnswer,
        status=201,
        also=(200,),
        call=DEFINITION,
        parameters=_APPLY_QUERY,
        refusals=(409, 413),
        examples=[
            *DEFINITION_EXAMPLES,
            answered(
                "created",
                {
                    "items": [
                        {
                            "kind": "Job",
                            "name": "nightly-etl",
                            "id": 7,
                            "url": "https://upbeat.example/api/v1/jobs/7",
                            "version": 1,
                            "outcome": "created",
                            "changes": [],
                        }
                    ]
                },
                201,
            ),
        ],
        tag="jobs",
    )
    def post(self, request: Request) -> HttpResponse:
        comment, dry_run = _apply_query(request)
        definitions = _jobs_in(bodies.read_raw(request, bodies.LARGEST_DEFINITION))
        items = _apply(self, request, definitions, comment=comment, dry_run=dry_run)
        created = not dry_run and any(item["outcome"] == "created" for item in items)
        return answer({"items": items}, status=201 if created else 200)


class JobDetail(JobView):
    """One job."""

    actions = {"PUT": Action.DEFINE}

    @describe("get_job", "Read a job", JobAnswer, tag="jobs")
    def get(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(job_answer(self.job(job), base_url(request)))

    @describe(
        "apply_job",
        "Apply the definition of one job: create it or give it a new version",
        AppliedAnswer,
        also=(201,),
        call=DEFINITION,
        parameters=_APPLY_QUERY,
        refusals=(409, 413),
        examples=DEFINITION_EXAMPLES,
        tag="jobs",
    )
    def put(self, request: Request, job: str) -> HttpResponse:
        comment, dry_run = _apply_query(request)
        name = self.job(job, Action.DEFINE).name if job.isdigit() else job
        check_action(self.token, Action.DEFINE, name)
        definitions = _jobs_in(bodies.read_raw(request, bodies.LARGEST_DEFINITION), stem=name)
        if len(definitions) != 1:
            raise InvalidDefinition(details=(Detail("", f"{len(definitions)} definitions", "one definition"),))
        (spec, _), *_ = definitions
        if spec.name != name:
            raise InvalidDefinition(details=(Detail("name", spec.name, f"{name}, the job of this path"),))
        (item,) = _apply(self, request, definitions, comment=comment, dry_run=dry_run)
        return answer(item, status=201 if item["outcome"] == "created" and not dry_run else 200)


class Validation(JobDetail):
    """All that is wrong with definitions; nothing is stored. Reading and applying are those of a job of this name."""

    actions = {"PUT": Action.DEFINE, "POST": Action.VIEW}

    @extend_schema(exclude=True)
    def get(self, request: Request, job: str) -> HttpResponse:
        return super().get(request, job)

    @extend_schema(exclude=True)
    def put(self, request: Request, job: str) -> HttpResponse:
        return super().put(request, job)

    @describe(
        "validate_definitions",
        "Check definitions of any kind and name every problem; stores nothing",
        ValidationAnswer,
        call=DEFINITION,
        refusals=(413,),
        examples=DEFINITION_EXAMPLES,
        tag="jobs",
    )
    def post(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        found = read_definitions(bodies.read_raw(request, bodies.LARGEST_DEFINITION))
        return answer(
            {
                "valid": not any(definition.problems for definition in found),
                "definitions": [validation_answer(definition) for definition in found],
            }
        )


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
        media_type="text/plain",
        tag="jobs",
    )
    def get(self, request: Request, job: str, number: int) -> HttpResponse:
        bodies.check_query(request, ())
        version = selectors.version_of(self.job(job), number)
        return HttpResponse(version.source, content_type="text/plain; charset=utf-8")


class VersionExport(JobView):
    """A version in canonical form, as YAML."""

    @describe(
        "export_version",
        "Read the definition of a version in the form that `export` writes; applying it changes nothing",
        OpenApiResponse(OpenApiTypes.OBJECT),
        media_type=YAML,
        tag="jobs",
    )
    def get(self, request: Request, job: str, number: int) -> HttpResponse:
        bodies.check_query(request, ())
        version = selectors.version_of(self.job(job), number)
        return HttpResponse(export_yaml(JobSpec.from_canonical(version.spec)), content_type=YAML)


class VersionDiff(JobView):
    """What a version changes against another."""

    @describe(
        "diff_versions",
        "Compare a version with another, in words and as a unified diff",
        DiffAnswer,
        parameters=[query("against", "Number of the other version; default: the one before.", OpenApiTypes.INT)],
        tag="jobs",
    )
    def get(self, request: Request, job: str, number: int) -> HttpResponse:
        asked = bodies.check_query(request, ("against",))
        against = bodies.whole_number(asked, "against", default=number - 1, least=1, most=10**18 - 1)
        found = self.job(job)
        new = selectors.version_of(found, number)
        if against < 1:
            raise UnknownVersion(f"Version {number} of the job {found.name} is the first; name another by `against`.")
        return answer(diff_answer(selectors.version_of(found, against), new))


class JobParameters(JobView):
    """What a trigger call may send as parameters, as a JSON schema."""

    @describe(
        "get_job_parameters",
        "Read the JSON schema of a job's parameters",
        OpenApiResponse(
            OpenApiTypes.OBJECT,
            description="JSON Schema 2020-12. What it accepts, a trigger call accepts; a form can be drawn from it.",
        ),
        media_type="application/schema+json",
        parameters=[query("version", "Of this version; default: the one that the next run takes.", OpenApiTypes.INT)],
        tag="jobs",
    )
    def get(self, request: Request, job: str) -> HttpResponse:
        asked = bodies.check_query(request, ("version",))
        number = bodies.whole_number(asked, "version", default=0, least=1, most=10**18 - 1)
        found = self.job(job)
        version = selectors.version_of(found, number) if number else found.latest_version
        spec = JobSpec.from_canonical(version.spec) if version is not None else JobSpec(found.name)
        return schema_answer(
            schema_of(spec.parameters, tenant=self.token.tenant, title=spec.name, description=spec.description)
        )


class JobCommand(JobView):
    """Base of the commands on a job: a reason in, the job out."""

    action = Action.STEER

    def after(self, request: Request, job: Job) -> HttpResponse:
        return answer(job_answer(selectors.job_of(self.tenant_id, str(job.pk)), base_url(request)))

    def reason(self, request: Request) -> str:
        return bodies.read_body(request, {"reason": bodies.text()})["reason"]


class JobPause(JobCommand):
    """Pause a job: its new runs stay pending, running ones go on."""

    @describe("pause_job", "Pause a job", JobAnswer, call=ReasonCall, refusals=(413,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        reason = self.reason(request)
        found = self.job(job, Action.STEER)
        services.pause_job(found, by=self.by, reason=reason)
        return self.after(request, found)


class JobResume(JobCommand):
    """Let a paused job go on: its pending runs are admitted."""

    @describe("resume_job", "Let a paused job go on", JobAnswer, call=ReasonCall, refusals=(413,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        reason = self.reason(request)
        found = self.job(job, Action.STEER)
        services.resume_job(found, by=self.by, reason=reason)
        return self.after(request, found)


class JobArchive(JobCommand):
    """Archive a job: it starts no more runs."""

    action = Action.DEFINE

    @describe("archive_job", "Archive a job", JobAnswer, call=ReasonCall, refusals=(413,), tag="jobs")
    def post(self, request: Request, job: str) -> HttpResponse:
        reason = self.reason(request)
        found = self.job(job, Action.DEFINE)
        services.archive_job(found, by=self.by, reason=reason)
        return self.after(request, found)


class JobRestore(JobCommand):
    """Let an archived job start runs again."""

    action = Action.DEFINE

    @describe(
        "restore_job", "Let an archived job start runs again", JobAnswer, call=ReasonCall, refusals=(413,), tag="jobs"
    )
    def post(self, request: Request, job: str) -> HttpResponse:
        reason = self.reason(request)
        found = self.job(job, Action.DEFINE)
        services.restore_job(found, by=self.by, reason=reason)
        return self.after(request, found)


def _apply_query(request: Request) -> tuple[str, bool]:
    asked = bodies.check_query(request, ("comment", "dry_run"))
    comment = asked.get("comment", "")
    if len(comment) > 500:
        raise InvalidRequest(
            "The query has problems.",
            details=(Detail("comment", bodies.quoted(comment), "a text of at most 500 characters"),),
        )
    return comment, "true" in choices(asked.get("dry_run"), "dry_run", ("true", "false"))


def _jobs_in(text: bytes, *, stem: str = "") -> list[tuple[JobSpec, str]]:
    found = valid_definitions(text, stem=stem)
    return [(_job_spec(definition), definition.source) for definition in found]


def _job_spec(definition: Definition) -> JobSpec:
    if definition.spec is None:
        raise InvalidDefinition(details=(Detail("kind", definition.kind, "Job: other kinds have paths of their own"),))
    return definition.spec


def _apply(
    view: ApiView, request: Request, definitions: list[tuple[JobSpec, str]], *, comment: str, dry_run: bool
) -> list[dict[str, Any]]:
    for spec, _ in definitions:
        check_action(view.token, Action.DEFINE, spec.name)
    tenant = view.token.tenant
    if dry_run:
        return [planned_answer(services.plan_job(tenant=tenant, spec=spec)) for spec, _ in definitions]
    applied = services.apply_definitions(tenant=tenant, definitions=definitions, author=view.by, comment=comment)
    return [applied_answer(one, base_url(request)) for one in applied]
