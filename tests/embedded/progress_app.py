"""A Celery app of two tasks, for the worker that `test_progress.py` starts."""

from __future__ import annotations

import os
import time

from celery import Celery

from orchestrator.embedded import progress

app = Celery("progress_app", broker=os.environ["BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True, task_ignore_result=True, worker_prefetch_multiplier=1, task_acks_late=True
)
progress.watch_consumer(app)


@app.task(name="nap")
def nap(seconds: float) -> None:
    time.sleep(seconds)
