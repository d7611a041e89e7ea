from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, describe, example, limit, page
from orchestrator.api.serializers.jobs import JobAnswer, job_answer
from orchestrator.api.serializers.templates import TemplateAnswer, TemplateJobCall, template_answer
from orchestrator.api.views.base import ApiView, base_url, page_answer, schema_answer
from orchestrator.api.views.jobs import DEFINITION, YAML
from orchestrator.dag.export import form_as_yaml
from orchestrator.dag.templates import TemplateSpec, template_form
from orchestrator.errors import Detail, InvalidDefinition
from orchestrator.models import Template
from orchestrator.roles import Action
from orchestrator.selectors import templates as selectors
from orchestrator.selectors.jobs import job_of
from orchestrator.services import templates as services
from orchestrator.services.parameters import template_schema_of
from orchestrator.services.parsing import valid_definitions
from orchestrator.services.tokens import check_action

_EXAMPLE: Final = {
    "template_name": "database_backup",
    "parameters": [
        {"name": "database_host", "type": "string", "required": True},
        {"name": "backup_path", "type": "path", "default": "/data/backup"},
    ],
    "task_definition": {
        "schedule": "0 2 * * *",
        "timeout": 7200,
        "retry_times": 2,
        "command": "mysqldump -h ${database_host} --all-databases > ${backup_path}/all.sql",
    },
}
EXAMPLES: Final = [example("template", _EXAMPLE, media_type="application/json")]


class TemplateView(ApiView):
    """Base of what is about one template."""

    def template(self, name: str) -> Template:
        return selectors.template_of(self.tenant_id, name)

    def store(self, request: Request, *, name: str | None = None) -> HttpResponse:
        """Store the one template of the body, of this name if one is given."""
        bodies.check_query(request, ())
        definitions = valid_definitions(bodies.read_raw(request, bodies.LARGEST_DEFINITION))
        spec = definitions[0].other
        if len(definitions) != 1 or not isinstance(spec, TemplateSpec):
            raise InvalidDefinition(
                details=(Detail("", definitions[0].kind, "one template: template_name with its fields"),)
            )
        if name is not None and spec.name != name:
            raise InvalidDefinition(details=(Detail("template_name", spec.name, f"{name}, the template of this path"),))
        stored = services.set_template(tenant=self.token.tenant, spec=spec, by=self.by)
        return answer(
            template_answer(stored.template, base_url(request)), status=201 if stored.outcome == "created" else 200
        )


class TemplateList(TemplateView):
    """Templates, by name."""

    actions = {"POST": Action.DEFINE}

    @describe(
        "list_templates",
        "List templates",
        page(TemplateAnswer, "TemplatePage"),
        parameters=[limit(50, 200), CURSOR],
        tag="templates",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.templates_of(
            self.tenant_id,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda row: template_answer(row, base))

    @describe(
        "create_template",
        "Define a template, or replace the one of its name",
        TemplateAnswer,
        status=201,
        also=(200,),
        call=DEFINITION,
        refusals=(413,),
        examples=EXAMPLES,
        tag="templates",
    )
    def post(self, request: Request) -> HttpResponse:
        return self.store(request)


class TemplateDetail(TemplateView):
    """One template."""

    actions = {"PUT": Action.DEFINE, "DELETE": Action.DEFINE}

    @describe("get_template", "Read a template", TemplateAnswer, tag="templates")
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(template_answer(self.template(name), base_url(request)))

    @describe(
        "put_template",
        "Define or replace a template",
        TemplateAnswer,
        also=(201,),
        call=DEFINITION,
        refusals=(413,),
        examples=EXAMPLES,
        tag="templates",
    )
    def put(self, request: Request, name: str) -> HttpResponse:
        return self.store(request, name=name)

    @describe("delete_template", "Delete a template; jobs made from it stay", None, status=204, tag="templates")
    def delete(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        services.delete_template(self.template(name), by=self.by)
        return HttpResponse(status=204)


class TemplateExport(TemplateView):
    """A template as YAML."""

    @describe(
        "export_template",
        "Read a template as YAML that can be applied unchanged",
        OpenApiResponse(OpenApiTypes.OBJECT),
        media_type=YAML,
        tag="templates",
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        form = template_form(selectors.spec_of_template(self.template(name)))
        return HttpResponse(form_as_yaml(form), content_type=YAML)


class TemplateParameters(TemplateView):
    """What a job needs that is made from a template, as a JSON schema."""

    @describe(
        "get_template_parameters",
        "Read the JSON schema of a template's parameters",
        OpenApiResponse(OpenApiTypes.OBJECT),
        media_type="application/schema+json",
        tag="templates",
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        spec = selectors.spec_of_template(self.template(name))
        return schema_answer(
            template_schema_of(spec.parameters, tenant=self.token.tenant, title=spec.name, description=spec.description)
        )


class TemplateJobs(TemplateView):
    """Jobs made from a template."""

    action = Action.DEFINE

    @describe(
        "create_job_from_template",
        "Make a job from a template; the same again changes nothing",
        JobAnswer,
        status=201,
        also=(200,),
        call=TemplateJobCall,
        refusals=(409, 413),
        examples=[example("backup", {"name": "backup-db1", "parameters": {"database_host": "db1.example"}})],
        tag="templates",
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        body: dict[str, Any] = bodies.read_body(
            request, {"name": bodies.name("the job's name"), "parameters": bodies.mapping()}
        )
        check_action(self.token, Action.DEFINE, body["name"])
        row = self.template(name)
        row.tenant = self.token.tenant
        applied = services.create_job_of_template(row, name=body["name"], values=body["parameters"], author=self.by)
        job = job_of(self.tenant_id, str(applied.job.pk))
        return answer(job_answer(job, base_url(request)), status=201 if applied.outcome == "created" else 200)
