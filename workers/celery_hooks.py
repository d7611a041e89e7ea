"""What a worker process does besides tasks: it reports progress to its supervisor."""

from __future__ import annotations

from orchestrator.celery import app
from orchestrator.embedded import progress

progress.watch_consumer(app)
