"""What a worker process does besides tasks: it reports progress to its supervisor, tells its time, and ends in order."""

from __future__ import annotations

import time
from typing import Any

from celery.worker.control import inspect_command

from orchestrator.celery import app
from orchestrator.contracts import CLOCK
from orchestrator.embedded import progress
from workers import ending

progress.watch_consumer(app)
ending.end_in_order(app)


@inspect_command(name=CLOCK)
def _tell_time(state: Any, **kwargs: Any) -> float:
    """`doctor` compares it with the database's."""
    return time.time()
