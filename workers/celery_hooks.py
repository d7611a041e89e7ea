"""What a worker process does besides tasks: it reports progress to its supervisor, and ends in order."""

from __future__ import annotations

from orchestrator.celery import app
from orchestrator.embedded import progress
from workers import ending

progress.watch_consumer(app)
ending.end_in_order(app)
