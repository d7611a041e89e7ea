from __future__ import annotations

from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request

from orchestrator.api import bodies
from orchestrator.api.answers import answer
from orchestrator.api.schema import CURSOR, describe, limit, page
from orchestrator.api.serializers.locks import (
    LockAnswer,
    LockCall,
    LockReleaseAnswer,
    LockReleaseCall,
    LockUseAnswer,
    lock_answer,
    lock_release_answer,
    lock_use_answer,
)
from orchestrator.api.views.base import ApiView, page_answer
from orchestrator.dag.locks import LARGEST_CAPACITY
from orchestrator.roles import Action
from orchestrator.selectors import locks as selectors
from orchestrator.selectors.runs import task_run_of
from orchestrator.services import locks as services
from orchestrator.services.tokens import check_action

#: The largest id that a database may have.
LARGEST_ID: Final = 10**18


class LockList(ApiView):
    """Named locks, by name."""

    @describe(
        "list_locks", "List locks", page(LockAnswer, "LockPage"), parameters=[limit(50, 200), CURSOR], tag="locks"
    )
    def get(self, request: Request) -> HttpResponse:
        asked = bodies.check_query(request, ("limit", "cursor"))
        found = selectors.locks_of(
            self.tenant_id,
            after=asked.get("cursor"),
            limit=bodies.whole_number(asked, "limit", default=50, least=1, most=200),
        )
        return page_answer(found, lock_answer)


class LockDetail(ApiView):
    """One lock: who holds it, who waits, and its definition."""

    actions = {"PUT": Action.DEFINE, "DELETE": Action.DEFINE}

    @describe("get_lock", "Read a lock with its holders and waiters", LockUseAnswer, tag="locks")
    def get(self, request: Request, name: str) -> HttpResponse:
        bodies.check_query(request, ())
        return answer(lock_use_answer(selectors.use_of(selectors.lock_of(self.tenant_id, name))))

    @describe(
        "put_lock", "Define a lock or change its capacity", LockUseAnswer, also=(201,), call=LockCall, tag="locks"
    )
    def put(self, request: Request, name: str) -> HttpResponse:
        fields = {
            "capacity": bodies.Field(
                f"an integer, 1 to {LARGEST_CAPACITY}", lambda v: _is_integer(v, LARGEST_CAPACITY), required=True
            ),
            "description": bodies.Field(
                "a text of at most 500 characters", lambda v: isinstance(v, str) and len(v) <= 500
            ),
        }
        body = bodies.read_body(request, fields)
        stored = services.set_lock(
            tenant=self.token.tenant,
            name=name,
            capacity=body["capacity"],
            description=body["description"],
            by=self.by,
        )
        use = selectors.use_of(stored.lock)
        return answer(lock_use_answer(use), status=201 if stored.outcome == "created" else 200)

    @describe(
        "delete_lock", "Delete a lock that nobody holds or waits for", None, status=204, refusals=(409,), tag="locks"
    )
    def delete(self, request: Request, name: str) -> HttpResponse:
        bodies.read_body(request, {})
        services.delete_lock(tenant_id=self.tenant_id, name=name, by=self.by)
        return HttpResponse(status=204)


class LockReleases(ApiView):
    """Take a lock from a holder that is stuck."""

    action = Action.STEER

    @describe(
        "release_lock",
        "Take a lock from a holder that is stuck, with a reason",
        LockReleaseAnswer,
        status=201,
        call=LockReleaseCall,
        refusals=(409,),
        tag="locks",
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        body = bodies.read_body(
            request,
            {
                "task_run": bodies.Field(
                    "the id of the task run that holds the lock", lambda v: _is_integer(v, LARGEST_ID), required=True
                ),
                "reason": bodies.text(400, required=True),
            },
        )
        task_run = task_run_of(self.tenant_id, body["task_run"])
        check_action(self.token, Action.STEER, task_run.run.job.name)
        released = services.release_holder(
            tenant_id=self.tenant_id, name=name, task_run_id=task_run.pk, by=self.by, reason=body["reason"]
        )
        return answer(lock_release_answer(name, released), status=201)


def _is_integer(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
