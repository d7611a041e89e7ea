from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import describe
from orchestrator.api.serializers.waiting import WaitingAnswer, waiting_answer
from orchestrator.api.views.base import ApiView
from orchestrator.roles import Action
from orchestrator.selectors.runs import run_of, task_run_of
from orchestrator.selectors.waiting import why_waiting_run, why_waiting_task
from orchestrator.services.tokens import check_action


class RunWaiting(ApiView):
    """Why a run waits."""

    @describe("why_run_waits", "Say why a run waits, most binding reason first", WaitingAnswer, tag="runs")
    def get(self, request: Request, run_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        run = run_of(self.tenant_id, run_id)
        check_action(self.token, Action.VIEW, run.job.name)
        return answer(waiting_answer(why_waiting_run(run.pk)))


class TaskRunWaiting(ApiView):
    """Why a task run waits."""

    @describe(
        "why_task_run_waits", "Say why a task run waits, most binding reason first", WaitingAnswer, tag="task-runs"
    )
    def get(self, request: Request, task_run_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        row = task_run_of(self.tenant_id, task_run_id)
        check_action(self.token, Action.VIEW, row.run.job.name)
        return answer(waiting_answer(why_waiting_task(row.pk)))
