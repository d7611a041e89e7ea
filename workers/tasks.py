"""Celery tasks of the workers: thin, ids in."""

from __future__ import annotations

import os
import threading
from typing import Any

from celery.exceptions import Ignore, Reject

from orchestrator.celery import LedgerTask, app
from orchestrator.contracts import EXECUTE
from workers.ending import is_leaving
from workers.runtime.attempt import Ended, run_attempt


@app.task(name=EXECUTE, base=LedgerTask, bind=True, shared=False)
def execute(self: Any, run_id: int, task_run_id: int) -> None:
    """Run one attempt. A message for a task run that is not final advances neither chain nor chord."""
    if is_leaving():
        # Fetched before the worker was asked to end: begun now it might be cut short, on another worker it is not.
        raise Reject("this worker ends", requeue=True)
    request = self.request
    follows = request.chain[-1]["args"][1] if request.chain else None
    # One name for each slot: a claim whose COMMIT was in doubt is found again by it.
    worker = f"{request.hostname}/{os.getpid()}.{threading.get_ident() % 100_000}"
    if run_attempt(task_run_id, worker=worker, follows=follows) is Ended.OPEN:
        raise Ignore
