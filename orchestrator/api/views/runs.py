from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Final

from django.http import HttpResponse
from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import HeldAnswer, answer
from orchestrator.api.schema import CURSOR, describe, limit, page, query
from orchestrator.api.serializers.runs import (
    AttemptAnswer,
    ReasonCall,
    RunAnswer,
    TaskRunAnswer,
    TransitionAnswer,
    attempt_answer,
    run_answer,
    task_run_answer,
    transition_answer,
)
from orchestrator.api.views.base import ApiView, base_url, choices, number_cursor, page_answer
from orchestrator.conf import options
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.models import JobRun
from orchestrator.selectors import runs as selectors
from orchestrator.selectors.pages import Page
from orchestrator.services import runs as services
from orchestrator.services.tokens import OPERATE, READ, check_scope
from orchestrator.states import ATTEMPT_FINAL, RUN_FINAL, RunState
from orchestrator.store import Store, log_key, open_store

LONGEST_WAIT_SECONDS: Final = 60
#: One answer of a log; a longer one is read on from `X-Next-Offset`.
LOG_BYTES: Final = 1 << 20


class RunView(ApiView):
    """Base of what is about one run."""

    def run(self, run_id: int, scope: str = READ) -> JobRun:
        found = selectors.run_of(self.tenant_id, run_id)
        check_scope(self.token, scope, found.job.name)
        return found


class RunList(ApiView):
    """Runs, newest first."""

    @describe(
        "list_runs",
        "List runs, newest first",
        page(RunAnswer, "RunPage"),
        parameters=[
            query("job", "Name of the job."),
            query("state", "State, or several separated by commas."),
            query("trigger", "Kind of the trigger: api, manual, cli, schedule …"),
            query("created_from", "Not before this moment.", OpenApiTypes.DATETIME),
            query("created_to", "Before this moment.", OpenApiTypes.DATETIME),
            limit(50, 200),
            CURSOR,
        ],
        tag="runs",
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(
            request, ("job", "state", "trigger", "created_from", "created_to", "limit", "cursor")
        )
        chosen = selectors.RunFilter(
            job=asked.get("job"),
            states=choices(asked.get("state"), "state", RunState),
            trigger_kind=asked.get("trigger"),
            created_from=_moment(asked.get("created_from"), "created_from"),
            created_to=_moment(asked.get("created_to"), "created_to"),
        )
        found = selectors.runs_of(
            self.tenant_id,
            chosen,
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
        parameters=[limit(200, 1000), CURSOR],
        tag="runs",
    )
    def get(self, request: Request, run_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.task_runs_of(
            self.run(run_id),
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
        parameters=[limit(200, 1000), CURSOR],
        tag="runs",
    )
    def get(self, request: Request, run_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.transitions_of(
            self.run(run_id),
            after=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=200, least=1, most=1000),
        )
        return page_answer(found, transition_answer)


class RunCommand(RunView):
    """Base of the commands on a run: a reason in, the run out."""

    scope = OPERATE

    def after(self, request: Request, run_id: int) -> HttpResponse:
        return answer(run_answer(selectors.run_of(self.tenant_id, run_id), base_url(request)))

    def reason(self, request: Request) -> str:
        return bodies.read_body(request, {"reason": bodies.text()})["reason"]


class RunCancellation(RunCommand):
    """Cancel a run: what waits ends at once, what runs is asked to stop."""

    @describe("cancel_run", "Cancel a run", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.cancel_run(self.run(run_id, OPERATE).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


class RunPause(RunCommand):
    """Pause a run: running tasks go on, no further one starts."""

    @describe("pause_run", "Pause a run", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.pause_run(self.run(run_id, OPERATE).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


class RunResume(RunCommand):
    """Let a paused run go on."""

    @describe("resume_run", "Let a paused run go on", RunAnswer, call=ReasonCall, refusals=(409,), tag="runs")
    def post(self, request: Request, run_id: int) -> HttpResponse:
        reason = self.reason(request)
        services.resume_run(self.run(run_id, OPERATE).pk, by=self.by, reason=reason)
        return self.after(request, run_id)


class TaskRunAttempts(ApiView):
    """The attempts of a task run, first to last."""

    @describe("list_attempts", "List the attempts of a task run", page(AttemptAnswer, "AttemptPage"), tag="task-runs")
    def get(self, request: Request, task_run_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        task_run = selectors.task_run_of(self.tenant_id, task_run_id)
        check_scope(self.token, READ, task_run.run.job.name)
        return page_answer(Page(selectors.attempts_of(task_run), None), attempt_answer)


class AttemptLog(ApiView):
    """The log of an attempt as text, from an offset in bytes."""

    @describe(
        "read_log",
        "Read the log of an attempt",
        {
            (200, "text/plain"): OpenApiResponse(
                OpenApiTypes.STR,
                description="`X-Next-Offset`: where to read on; `X-Complete: true`: nothing will follow.",
            )
        }[(200, "text/plain")],
        parameters=[
            query("offset", "Bytes to skip.", OpenApiTypes.INT, default=0),
            OpenApiParameter("X-Next-Offset", int, OpenApiParameter.HEADER, response=[200]),
            OpenApiParameter("X-Complete", bool, OpenApiParameter.HEADER, response=[200]),
        ],
        tag="task-runs",
    )
    def get(self, request: Request, attempt_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("offset",))
        offset = bodies.whole_number(asked, "offset", default=0, least=0, most=1 << 50)
        attempt = selectors.attempt_of(self.tenant_id, attempt_id)
        run = attempt.task_run.run
        check_scope(self.token, READ, run.job.name)
        # The state was read before the log: what an ended attempt wrote is all there.
        data = _store().read(log_key(run.pk, attempt.pk), offset, LOG_BYTES)
        ended = attempt.state in ATTEMPT_FINAL
        at_end = len(data) < LOG_BYTES
        if not (ended and at_end):
            data = data[: _whole_characters(data)]
        answered = HttpResponse(data.decode(errors="replace").encode(), content_type="text/plain; charset=utf-8")
        answered["X-Next-Offset"] = str(offset + len(data))
        if ended and at_end:
            answered["X-Complete"] = "true"
        return answered


@cache
def _store() -> Store:
    return open_store(options().store_location)


def _whole_characters(data: bytes) -> int:
    """Return how many bytes to answer so that no UTF-8 character is cut in two."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if wanted > back else len(data)
    return len(data)


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


def _moment(value: str | None, key: str) -> datetime | None:
    if value is None:
        return None
    try:
        # A `+` in a query is a blank unless it was encoded.
        moment = parse_datetime(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidRequest(
            "The query has problems.",
            details=(Detail(key, bodies.quoted(value), "a moment such as 2027-01-31T06:00:00Z"),),
        )
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(
            "The query has problems.", details=(Detail(key, bodies.quoted(value), "a moment in UTC"),)
        ) from None
