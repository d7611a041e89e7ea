"""Commands on tasks, on runs that have ended, and on many runs at once."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.bodies import Field, quoted
from orchestrator.api.filters import RUN_FILTERS, run_filter
from orchestrator.api.schema import describe, example
from orchestrator.api.serializers.commands import BulkAnswer, BulkCancelCall, BulkRerunCall, RerunCall, bulk_answer
from orchestrator.api.serializers.runs import ReasonCall, RunAnswer, TaskRunAnswer, run_answer, task_run_answer
from orchestrator.api.views.base import ApiView, base_url, number_cursor
from orchestrator.api.views.runs import RunCommand
from orchestrator.api.views.trigger import IDEMPOTENCY_KEY
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.models import JobRun
from orchestrator.roles import Action
from orchestrator.selectors import runs as selectors
from orchestrator.selectors.runs import RunFilter
from orchestrator.services import bulk, steering
from orchestrator.services.idempotency import rerun_once
from orchestrator.services.tokens import check_action

_REASON: Final = {"reason": bodies.text()}
_START: Final = Field(
    "start, failed, or a list of tasks",
    lambda value: isinstance(value, (str, list)) and all(isinstance(name, str) for name in value),
    default="failed",
)
_RERUN: Final = {"from": _START, "mark": bodies.mapping(), **_REASON}
_YES_OR_NO: Final = Field("true or false", lambda value: isinstance(value, bool), default=False)
_MANY: Final = {
    "filter": Field(
        "an object with at least one of " + ", ".join(RUN_FILTERS), lambda value: isinstance(value, dict), required=True
    ),
    "dry_run": _YES_OR_NO,
    "limit": Field(
        f"a whole number from 1 to {bulk.MOST}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= bulk.MOST,
        default=100,
    ),
    **_REASON,
}


class TaskRunCommand(ApiView):
    """Base of the commands on a task run: a reason in, the task run out."""

    action = Action.STEER

    def allowed(self, task_run_id: int) -> int:
        found = selectors.task_run_of(self.tenant_id, task_run_id)
        check_action(self.token, Action.STEER, found.run.job.name)
        return found.pk


class TaskRunSkip(TaskRunCommand):
    """Skip a task that has not started: what depends on its success is skipped too."""

    @describe(
        "skip_task_run",
        "Skip a task that neither runs nor has ended",
        TaskRunAnswer,
        call=ReasonCall,
        refusals=(409, 413),
        tag="task-runs",
    )
    def post(self, request: Request, task_run_id: int) -> HttpResponse:
        reason = bodies.read_body(request, _REASON)["reason"]
        row = steering.skip_task(self.allowed(task_run_id), by=self.by, reason=reason)
        return answer(task_run_answer(row))


class TaskRunMark(TaskRunCommand):
    """Mark a task that has not started as succeeded: what depends on it goes on."""

    @describe(
        "mark_task_run",
        "Mark a task that neither runs nor has ended as succeeded",
        TaskRunAnswer,
        call=ReasonCall,
        refusals=(409, 413),
        tag="task-runs",
    )
    def post(self, request: Request, task_run_id: int) -> HttpResponse:
        reason = bodies.read_body(request, _REASON)["reason"]
        row = steering.mark_task(self.allowed(task_run_id), by=self.by, reason=reason)
        return answer(task_run_answer(row))


class RunRetries(RunCommand):
    """Run a run again, as a new run."""

    @describe(
        "rerun",
        "Run a run that has ended again, as a new run",
        RunAnswer,
        status=201,
        also=(200,),
        call=RerunCall,
        parameters=[IDEMPOTENCY_KEY],
        refusals=(409, 413, 422),
        examples=[
            example("from what failed", {"from": "failed", "reason": "disk replaced"}),
            example("from a task, another marked", {"from": ["load"], "mark": {"extract": "succeeded"}}),
        ],
        tag="runs",
    )
    def post(self, request: Request, run_id: int) -> HttpResponse:
        asked = bodies.read_body(request, _RERUN)
        run = self.run(run_id, Action.STEER)
        call: dict[str, Any] = {
            "start": asked["from"], "mark": asked["mark"], "by": self.by, "reason": asked["reason"],
        }  # fmt: skip
        key = request.headers.get("Idempotency-Key")
        if key is None:
            started = steering.start_rerun(run.pk, **call)
        else:
            started = rerun_once(token=self.token, key=key, run_id=run.pk, **call)
        made: JobRun = selectors.run_of(self.tenant_id, started.run.pk)
        return answer(run_answer(made, base_url(request)), status=201 if started.created else 200)


class BulkCommand(ApiView):
    """Base of the commands on many runs."""

    action = Action.STEER

    def chosen(self, given: dict[str, Any]) -> RunFilter:
        if unknown := [key for key in given if key not in RUN_FILTERS]:
            raise InvalidRequest(
                "The body has problems.",
                details=tuple(
                    Detail(
                        f"filter.{key}"[:200], quoted(given[key]), "no such filter; known: " + ", ".join(RUN_FILTERS)
                    )
                    for key in unknown
                ),
            )
        chosen = run_filter(given, within="filter.")
        if chosen.job is not None:
            check_action(self.token, Action.STEER, chosen.job)
        return chosen


class RunCancellations(BulkCommand):
    """Cancel many runs."""

    @describe(
        "cancel_runs",
        "Cancel the open runs that a filter chooses, a bounded number at a time",
        BulkAnswer,
        call=BulkCancelCall,
        refusals=(413,),
        examples=[example("count first", {"filter": {"job": "nightly-etl", "state": "pending"}, "dry_run": True})],
        tag="runs",
    )
    def post(self, request: Request) -> HttpResponse:
        asked = bodies.read_body(request, _MANY)
        done = bulk.cancel_runs(
            self.tenant_id,
            self.chosen(asked["filter"]),
            job_names=self.token.job_names,
            by=self.by,
            reason=asked["reason"],
            dry_run=asked["dry_run"],
            limit=asked["limit"],
        )
        return answer(bulk_answer(done, base_url(request), dry_run=asked["dry_run"]))


class RunsRetries(BulkCommand):
    """Run many runs again."""

    @describe(
        "rerun_runs",
        "Run the ended runs that a filter chooses again, a bounded number at a time",
        BulkAnswer,
        call=BulkRerunCall,
        refusals=(413,),
        examples=[
            example(
                "what failed today",
                {"filter": {"tag": "etl", "state": "failed", "created_from": "2027-01-31T00:00:00Z"}, "from": "failed"},
            )
        ],
        tag="runs",
    )
    def post(self, request: Request) -> HttpResponse:
        cursor = Field("`next` of the call before", lambda value: value is None or isinstance(value, str))
        asked = bodies.read_body(request, {**_MANY, **_RERUN, "again": _YES_OR_NO, "cursor": cursor})
        done = bulk.rerun_runs(
            self.tenant_id,
            self.chosen(asked["filter"]),
            job_names=self.token.job_names,
            start=asked["from"],
            mark=asked["mark"],
            by=self.by,
            reason=asked["reason"],
            dry_run=asked["dry_run"],
            again=asked["again"],
            after=number_cursor(asked["cursor"]) or 0,
            limit=asked["limit"],
        )
        return answer(bulk_answer(done, base_url(request), dry_run=asked["dry_run"]))
