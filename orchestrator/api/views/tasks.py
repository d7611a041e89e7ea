"""`/api/v1/tasks`: jobs of one shell command, by the id or name of the job."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, answered, describe, example, limit, page
from orchestrator.api.serializers.runs import ReasonCall, TriggerAnswer
from orchestrator.api.serializers.tasks import (
    ExecuteCall,
    StoppedAnswer,
    TaskAnswer,
    TaskCall,
    TaskStatusAnswer,
    stopped_answer,
    task_answer,
    task_status_answer,
)
from orchestrator.api.views.base import ApiView, base_url, page_answer
from orchestrator.api.views.jobs import JobView
from orchestrator.api.views.trigger import IDEMPOTENCY_KEY, started_answer
from orchestrator.roles import Action
from orchestrator.selectors import jobs as selectors
from orchestrator.services.single_tasks import create_single_task, job_name_of, stop_job
from orchestrator.services.tokens import check_action

FIELDS: Final = {
    "name": bodies.Field("a text", lambda value: isinstance(value, str), required=True),
    "command": bodies.Field("a shell command line", lambda value: isinstance(value, str), required=True),
    "schedule": bodies.Field('a cron text such as "0 2 * * *"', lambda value: value is None or isinstance(value, str)),
    "timeout": bodies.Field(
        'seconds, or a text such as "30m"',
        lambda value: value is None or (isinstance(value, (int, float, str)) and not isinstance(value, bool)),
    ),
}
_CALL: Final = {"name": "backup-db", "schedule": "0 2 * * *", "command": "./backup.sh", "timeout": 3600}


class TaskList(ApiView):
    """Jobs of one shell command."""

    actions = {"POST": Action.DEFINE}

    @describe(
        "list_tasks",
        "List the jobs of one shell command",
        page(TaskAnswer, "TaskPage"),
        parameters=[limit(50, 200), CURSOR],
        tag="tasks",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.single_tasks_of(
            self.tenant_id,
            names=self.token.job_names,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda job: task_answer(job, base, run_state=job.run_state))

    @describe(
        "create_task",
        "Make a job of one shell command and a cron schedule",
        TaskAnswer,
        status=201,
        call=TaskCall,
        refusals=(409, 413),
        examples=[
            example("backup", _CALL),
            answered(
                "created",
                {
                    "id": 7,
                    "name": "backup-db",
                    "description": "",
                    "schedule": "0 2 * * *",
                    "command": "./backup.sh",
                    "timeout": 3600,
                    "status": "idle",
                    "url": "https://upbeat.example/api/v1/tasks/7",
                    "job_url": "https://upbeat.example/api/v1/jobs/7",
                },
                201,
            ),
        ],
        tag="tasks",
    )
    def post(self, request: Request) -> HttpResponse:
        bodies.check_query(request, ())
        body: dict[str, Any] = bodies.read_body(request, FIELDS)
        check_action(self.token, Action.DEFINE, job_name_of(body["name"]))
        applied = create_single_task(tenant=self.token.tenant, fields=body, author=self.by)
        applied.job.latest_version = applied.version
        return answer(task_answer(applied.job, base_url(request)), status=201)


class TaskDetail(JobView):
    """One of them."""

    @describe("get_task", "Read a job of one shell command", TaskAnswer, refusals=(409,), tag="tasks")
    def get(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        found = self.job(job)
        newest = selectors.status_of(found).newest
        return answer(task_answer(found, base_url(request), run_state=newest.state if newest else None))


class TaskStatus(JobView):
    """How a job's runs stand."""

    @describe("get_task_status", "Read how a job's runs stand", TaskStatusAnswer, tag="tasks")
    def get(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        found = self.job(job)
        return answer(task_status_answer(found, selectors.status_of(found), base_url(request)))


class TaskExecute(JobView):
    """Start a run of a job."""

    action = Action.TRIGGER

    @describe(
        "execute_task",
        "Start a run of a job now",
        TriggerAnswer,
        status=202,
        call=ExecuteCall,
        parameters=[IDEMPOTENCY_KEY],
        refusals=(409, 413, 422),
        tag="tasks",
    )
    def post(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        body = bodies.read_body(request, {"parameters": bodies.mapping()})
        found = self.job(job, Action.TRIGGER)
        return started_answer(request._request, self.token, job_name=found.name, parameters=body["parameters"])


class TaskStop(JobView):
    """Cancel the open runs of a job."""

    action = Action.STEER

    @describe(
        "stop_task", "Cancel the open runs of a job", StoppedAnswer, call=ReasonCall, refusals=(413,), tag="tasks"
    )
    def post(self, request: Request, job: str) -> HttpResponse:
        bodies.check_query(request, ())
        reason = bodies.read_body(request, {"reason": bodies.text()})["reason"]
        found = self.job(job, Action.STEER)
        return answer(stopped_answer(found, stop_job(found, by=self.by, reason=reason)))
