"""Task runs, their attempts, results and logs."""

from __future__ import annotations

import tempfile
from threading import BoundedSemaphore
from typing import Final

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import FileAnswer, FollowingAnswer, answer
from orchestrator.api.following import PIECE_BYTES, EventForm, FollowedLog, Form, TextForm, whole_characters
from orchestrator.api.schema import CURSOR, answered, describe, limit, page, query
from orchestrator.api.serializers.runs import (
    AttemptAnswer,
    LogEvent,
    TaskRunDetailAnswer,
    TransitionAnswer,
    attempt_answer,
    task_run_detail_answer,
    transition_answer,
)
from orchestrator.api.views.base import ApiView, base_url, number_cursor, page_answer
from orchestrator.errors import Detail, InvalidRequest, NotFound
from orchestrator.models import Attempt, TaskRun
from orchestrator.roles import Action
from orchestrator.selectors import runs as selectors
from orchestrator.selectors.pages import Page
from orchestrator.services.tokens import check_action
from orchestrator.states import ATTEMPT_FINAL, TASK_FINAL
from orchestrator.store import BlobMissing, log_key, store_of_process

#: One answer of a log; a longer one is read on from `X-Next-Offset`.
LOG_BYTES: Final = 1 << 20
LARGEST_OFFSET: Final = 1 << 50
#: A result of 64 MiB is in memory while its digest is checked: so many at once.
_LARGE_RESULTS = BoundedSemaphore(2)


class ResultMissing(NotFound):
    """The task run has no result."""

    code = "result_missing"


class TaskRunView(ApiView):
    """Base of what is about one task run."""

    def task_run(self, task_run_id: int, *, whole: bool = False) -> TaskRun:
        found = selectors.task_run_of(self.tenant_id, task_run_id, whole=whole)
        check_action(self.token, Action.VIEW, found.run.job.name)
        return found


class TaskRunDetail(TaskRunView):
    """One task run."""

    @describe("get_task_run", "Read a task run", TaskRunDetailAnswer, tag="task-runs")
    def get(self, request: Request, task_run_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(task_run_detail_answer(self.task_run(task_run_id, whole=True), base_url(request)))


class TaskRunResult(TaskRunView):
    """What a task returned, wherever it lies."""

    @describe(
        "get_result",
        "Read the result of a task run, of any size",
        OpenApiResponse(OpenApiTypes.ANY, description="The result as JSON; one over 16 KiB comes from the store."),
        refusals=(503,),
        examples=[answered("a row", {"n": 1204})],
        tag="task-runs",
    )
    def get(self, request: Request, task_run_id: int) -> HttpResponseBase:
        bodies.check_query(request, ())
        row = self.task_run(task_run_id, whole=True)
        if row.result_ref:
            return _stored_result(row.result_ref)
        if row.result is not None:
            return answer(row.result)
        if row.state not in TASK_FINAL:
            raise ResultMissing(f"The task {row.task.name} has no result yet: it is {row.state}.")
        raise ResultMissing(f"The task {row.task.name} ended {row.state} and returned no result.")


class TaskRunTransitions(TaskRunView):
    """What happened to a task run and its attempts, oldest first."""

    @describe(
        "list_task_run_transitions",
        "List what happened to a task run",
        page(TransitionAnswer, "TransitionPage"),
        parameters=[limit(200, 1000), CURSOR],
        tag="task-runs",
    )
    def get(self, request: Request, task_run_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        row = self.task_run(task_run_id)
        found = selectors.transitions_of(
            row.run,
            task_run=row,
            after=number_cursor(asked.get("cursor")),
            limit=bodies.whole_number(asked, "limit", default=200, least=1, most=1000),
        )
        return page_answer(found, transition_answer)


class TaskRunAttempts(TaskRunView):
    """The attempts of a task run, first to last."""

    @describe("list_attempts", "List the attempts of a task run", page(AttemptAnswer, "AttemptPage"), tag="task-runs")
    def get(self, request: Request, task_run_id: int) -> HttpResponse:
        bodies.check_query(request, ())
        return page_answer(Page(selectors.attempts_of(self.task_run(task_run_id)), None), attempt_answer)


class AttemptView(ApiView):
    """Base of what is about one attempt."""

    def attempt(self, attempt_id: int) -> Attempt:
        found = selectors.attempt_of(self.tenant_id, attempt_id)
        check_action(self.token, Action.VIEW, found.task_run.run.job.name)
        return found


class AttemptLog(AttemptView):
    """The log of an attempt as text, from an offset in bytes."""

    @describe(
        "read_log",
        "Read the log of an attempt",
        OpenApiResponse(
            OpenApiTypes.STR,
            description="`X-Next-Offset`: where to read on; `X-Complete: true`: nothing will follow.",
        ),
        media_type="text/plain",
        parameters=[
            query("offset", "Bytes to skip.", OpenApiTypes.INT, default=0),
            OpenApiParameter("X-Next-Offset", int, OpenApiParameter.HEADER, response=[200]),
            OpenApiParameter("X-Complete", bool, OpenApiParameter.HEADER, response=[200]),
        ],
        refusals=(503,),
        tag="task-runs",
    )
    def get(self, request: Request, attempt_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("offset",))
        offset = bodies.whole_number(asked, "offset", default=0, least=0, most=LARGEST_OFFSET)
        attempt = self.attempt(attempt_id)
        # The state was read before the log: what an ended attempt wrote is all there.
        data = store_of_process().read(log_key(attempt.task_run.run.pk, attempt.pk), offset, LOG_BYTES)
        ended = attempt.state in ATTEMPT_FINAL
        at_end = len(data) < LOG_BYTES
        if not (ended and at_end):
            data = data[: whole_characters(data)]
        answered = HttpResponse(data.decode(errors="replace").encode(), content_type="text/plain; charset=utf-8")
        answered["X-Next-Offset"] = str(offset + len(data))
        if ended and at_end:
            answered["X-Complete"] = "true"
        return answered


class AttemptLogStream(AttemptView):
    """The log of an attempt as it grows."""

    @describe(
        "follow_log",
        "Follow the log of an attempt until it is complete",
        OpenApiResponse(
            LogEvent,
            description='Events `log` with `{"text"}`, each with the offset behind it as its id, and at last `end` '
            'with `{"state"}`; with `Accept: text/plain` the text alone. A stream ends after ten minutes without '
            "`end`: open it again with the last id.",
        ),
        media_type="text/event-stream",
        parameters=[
            query("offset", "Bytes to skip.", OpenApiTypes.INT, default=0),
            OpenApiParameter(
                "Last-Event-ID",
                str,
                OpenApiParameter.HEADER,
                description="Go on behind this event; goes before `offset`.",
            ),
        ],
        refusals=(503,),
        examples=[
            answered(
                "event",
                {"id": "15", "event": "log", "data": '{"text": "1204 rows read\\n"}'},
                media_type="text/event-stream",
            )
        ],
        tag="task-runs",
    )
    def get(self, request: Request, attempt_id: int) -> HttpResponse:
        asked = bodies.check_query(request, ("offset",))
        offset = bodies.whole_number(asked, "offset", default=0, least=0, most=LARGEST_OFFSET)
        offset = _last_event(request, default=offset)
        attempt = self.attempt(attempt_id)
        accept: str = request.META.get("HTTP_ACCEPT", "")
        form: Form = TextForm() if "text/plain" in accept and "event-stream" not in accept else EventForm()
        key = log_key(attempt.task_run.run.pk, attempt.pk)
        data = store_of_process().read(key, offset, PIECE_BYTES)
        last = attempt.state in ATTEMPT_FINAL and len(data) < PIECE_BYTES
        if not last:
            data = data[: whole_characters(data)]
        now = form.piece(data.decode(errors="replace"), offset + len(data)) if data else b""
        followed = FollowedLog(attempt.pk, key, offset, self.token.pk)
        return FollowingAnswer(now + (form.end(attempt.state) if last else b""), followed=followed, form=form)


def _last_event(request: Request, *, default: int) -> int:
    value: str | None = request.META.get("HTTP_LAST_EVENT_ID")
    if not value:
        return default
    if value.isascii() and value.isdigit() and len(value) < 17 and int(value) <= LARGEST_OFFSET:
        return int(value)
    raise InvalidRequest(
        "The request has problems.",
        details=(Detail("Last-Event-ID", bodies.quoted(value), "the id of an event of this stream"),),
    )


def _stored_result(key: str) -> HttpResponseBase:
    # An unnamed file, so that a caller who reads slowly costs disk and no memory.
    file = tempfile.TemporaryFile()  # noqa: SIM115  the answer closes it
    try:
        with _LARGE_RESULTS:
            data = store_of_process().get(key)
            file.write(data)
    except BlobMissing:
        file.close()
        raise ResultMissing("The result is no longer in the store.") from None
    except BaseException:
        file.close()
        raise
    size = file.tell()
    file.seek(0)
    answered = FileAnswer(file, size=size, content_type="application/json")
    answered["ETag"] = f'"{key.rpartition("/")[2]}"'
    return answered
