"""The trigger call: the hottest path of the API, so it goes around REST framework's machinery.

Its statements: token, tenant and call count in one; the lookup of an idempotency key, if one was sent; `start_run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.authentication import token_of
from orchestrator.api.exceptions import answer_error
from orchestrator.api.schema import answered, describe, example
from orchestrator.api.serializers.runs import TriggerAnswer, TriggerCall, run_url
from orchestrator.api.views.base import ApiView, base_url, by_token
from orchestrator.models import ApiToken
from orchestrator.roles import Action
from orchestrator.services.idempotency import start_run_once
from orchestrator.services.runs import start_run
from orchestrator.services.tokens import check_action

FIELDS: Final = {"jobName": bodies.name("the name of a job"), "parameters": bodies.mapping()}

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Within 24 hours the same key of the same token starts one run, however often it is sent.",
)


class TriggerRun(ApiView):
    """Start a run of a job."""

    action = Action.TRIGGER

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return super().dispatch(request, *args, **kwargs)
        try:
            return trigger(request)
        except Exception as error:
            return answer_error(error)

    @describe(
        "trigger_run",
        "Start a run of a job",
        TriggerAnswer,
        status=202,
        call=TriggerCall,
        parameters=[IDEMPOTENCY_KEY],
        refusals=(409, 413, 422),
        examples=[
            example("for one region", {"jobName": "nightly-etl", "parameters": {"region": "us"}}),
            answered(
                "started",
                {
                    "id": 12,
                    "state": "running",
                    "url": "https://upbeat.example/api/v1/runs/12",
                    "created": True,
                    "reason": "",
                },
                202,
            ),
        ],
        tag="runs",
    )
    def post(self, request: Any) -> HttpResponse:
        return trigger(request._request)


def trigger(request: HttpRequest) -> HttpResponse:
    token = token_of(request)
    check_action(token, Action.TRIGGER)
    body = bodies.read_body(request, FIELDS)
    check_action(token, Action.TRIGGER, body["jobName"])
    return started_answer(request, token, job_name=body["jobName"], parameters=body["parameters"])


def started_answer(
    request: HttpRequest, token: ApiToken, *, job_name: str, parameters: Mapping[str, Any]
) -> HttpResponse:
    """Start a run, once if the call has an idempotency key, and answer it."""
    cause = {"kind": "api", "by": by_token(token)}
    key = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        started = start_run(tenant=token.tenant, job_name=job_name, parameters=parameters, trigger=cause)
    else:
        started = start_run_once(token=token, key=key, job_name=job_name, parameters=parameters, trigger=cause)
    run = started.run
    return answer(
        {
            "id": run.pk,
            "state": run.state,
            "url": run_url(run.pk, base_url(request)),
            "created": started.created,
            "reason": run.reason,
        },
        status=202,
    )
