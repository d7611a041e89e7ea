"""A Celery app with our settings, names and base class whose tasks only say that they ran: the canvas without a ledger.

`python -m celery -A tests.support.canvas_app worker …` with UPBEAT_TEST_CANVAS_BROKER and UPBEAT_TEST_CANVAS_RESULT.
"""

from __future__ import annotations

import os

import redis
from celery import Celery
from celery.exceptions import Ignore

from orchestrator.canvas import chord_counter
from orchestrator.celery import LedgerTask
from orchestrator.contracts import ADVANCE, EXECUTE, EXPAND
from orchestrator.settings.celery import celery_settings

BROKER = os.environ.get("UPBEAT_TEST_CANVAS_BROKER", "redis://127.0.0.1:1/0")
RESULT = os.environ.get("UPBEAT_TEST_CANVAS_RESULT", "redis://127.0.0.1:1/0")

#: Where the tasks say that they ran, and which task runs are not final yet.
RAN, ADVANCED, EXPANDED, OPEN = "canvas:ran", "canvas:advanced", "canvas:expanded", "canvas:open"


def make_app(broker: str, result: str) -> Celery:
    """An app whose tasks have our names and record their arguments in the result server."""
    app = Celery("canvas", set_as_current=False)
    chord_counter.use(app)
    app.conf.update(celery_settings(broker, result))
    notes = redis.Redis.from_url(result)

    @app.task(name=EXECUTE, base=LedgerTask, shared=False)
    def execute(run_id: int, task_run_id: int) -> None:
        notes.rpush(RAN, task_run_id)
        if notes.sismember(OPEN, str(task_run_id)):
            raise Ignore

    @app.task(name=ADVANCE, base=LedgerTask, shared=False)
    def advance(run_id: int) -> None:
        notes.rpush(ADVANCED, run_id)

    @app.task(name=EXPAND, base=LedgerTask, shared=False)
    def expand(fragment_id: int, low: int, high: int) -> None:
        notes.rpush(EXPANDED, f"{low}-{high}")

    return app


app = make_app(BROKER, RESULT)
