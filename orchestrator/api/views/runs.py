from __future__ import annotations

from typing import Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import HeldAnswer, answer
from orchestrator.api.filters import RUN_FILTERS, run_filter
from orchestrator.api.schema import CURSOR, describe, limit, page, query
from orchestrator.api.serializers.runs import (
    ReasonCall,
    RunAnswer,
    TaskRunAnswer,
    TransitionAnswer,
    run_answer,
    task_run_answer,
    transition_answer,
)
from orchestrator.api.views.base import ApiView, base_url, choices, number_cursor, page_answer
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.models import JobRun
from orchestrator.roles import Action
from orchestrator.selectors import runs as selectors
from orchestrator.services import runs as services
from orchestrator.services.tokens import check_action
from orchestrator.states import RUN_FINAL, TaskState

LONGEST_WAIT_SECONDS: Final = 60


class RunView(ApiView):
    """Base of what is about one run."""

    def run(self, run_id: int, action: Action = Action.VIEW) -> JobRun:
        found = selectors.run_of(self.tenant_id, run_id)
        check_action(self.token, action, found.job.name)
        return found


class RunList(ApiView):
    """Runs, newest first."""

    @describe(
        "list_runs",
        "List runs, newest first",
        page(RunAnswer, "RunPage"),
        parameters=[*RUN_FILTERS.values(), limit(50, 200), CURSOR],
        tag="runs",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, (*RUN_FILTERS, "limit", "cursor"))
        found = selectors.runs_of(
            self.tenant_id,
            run_filter(asked),
            job_names=self.token.job_names,
            before=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        base = base_url(request)
        return page_answer(found, lambda run: run_answer(run, base))


class RunDetail(RunView):
    """One run; with `wait` the answer is held until it has ended."""

    @describe(
        "get_run",
        "Read a run, or wait for its end",
        RunAnswer,
        parameters=[
            query(
                "wait",
                f"Hold the answer until the run has ended, at most so many seconds (≤ {LONGEST_WAIT_SECONDS}).",
                OpenApiTypes.NUMBER,
            )
        ],
        tag="runs",
    )
    def get(self, request: Request, run_id: int) -> HttpResponse:
        seconds = _wait_seconds(bodies.check_query(request, ("wait",)).get("wait"))
        run = self.run(run_id)
        base, tenant_id = base_url(request), self.tenant_id
        now = answer(run_answer(run, base))
        if not seconds or run.state in RUN_FINAL:
            return now
        return HeldAnswer(
            now,
            run_id=run.pk,
            seconds=seconds,
            later=lambda: answer(run_answer(selectors.run_of(tenant_id, run_id), base)),
        )


class RunTaskRuns(RunView):
    """The task runs of a run, in topological order."""

    @describe(
        "list_task_runs",
        "List the task runs of a run",
        page(TaskRunAnswer, "TaskRunPage"),
        parameters=[
            query("state", "State, or several separated by commas."),
            query("task", "Name of the task."),
            limit(200, 1000),
            CURSOR,
        ],
        tag="runs",
    )
    def get(self, request: Request, run_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("state", "task", "limit", "cursor"))
        found = selectors.task_runs_of(
            self.run(run_id),
            states=choices(asked.get("state"), "state", TaskState),
            task=asked.get("task"),
            after=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=200, least=1, most=1000),
        )
        return page_answer(found, task_run_answer)


class RunTransitions(RunView):
    """What happened in a run, oldest first."""

    @describe(
        "list_transitions",
        "List what happened in a run",
        page(TransitionAnswer, "TransitionPage"),
        parameters=[
            query("subject", "run, task_run or attempt, or several separated by commas."),
            limit(200, 1000),
            CURSOR,
        ],
        tag="runs",
    )
    def get(self, request: Request, run_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("subject", "limit", "cursor"))
        found = selectors.transitions_of(
            self.run(run_id),
            subjects=choices(asked.get("subject"), "subject", ("run", "task_run", "attempt")),
            after=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=200, least=1, most=1000),
        )
        return page_answer(found, transition_answer)


class RunCommand(RunView):
    """Base of the commands on a run: a reason in, the run out."""

    action = Action.STEER

    def after(self, request: Request, run_id: int) -> HttpResponse:
        return answer(run_answer(selectors.run_of(self.tenant_id, run_id), base_url(request)))

    def reason(self, request: Request) -> str:
        return bodies.read_body(request, {"reason": bodies.text()})["reason"]


class RunCancellation(RunCommand):
    """Cancel a run: what waits ends at once, what runs is asked to stop."""

    @describe("cancel_run", "Cancel a run", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.cancel_run(self.run(run_id, Action.STEER).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


class RunPause(RunCommand):
    """Pause a run: running tasks go on, no further one starts."""

    @describe("pause_run", "Pause a run", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.pause_run(self.run(run_id, Action.STEER).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


class RunResume(RunCommand):
    """Let a paused run go on."""

    @describe("resume_run", "Let a paused run go on", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.resume_run(self.run(run_id, Action.STEER).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


def _wait_seconds(value: str | None) -> float:
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
        raise InvalidRequest(
            "The query has problems.",
            details=(Detail("wait", bodies.quoted(value), f"seconds from 0 to {LONGEST_WAIT_SECONDS}"),),
        )
    return seconds
