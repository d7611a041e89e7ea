"""Messages become events, firings, runs and dead letters, in one transaction, before anybody is told so.

Imported late by whoever needs a part: the envelope and the sources stay free of rules and database.
"""

from __future__ import annotations

from triggers.ingest.batch import Infrastructure, Prepared, Result, SourceView, Written
from triggers.ingest.launcher import Launcher
from triggers.ingest.pipeline import Pipeline
from triggers.ingest.stall import stall_reason

__all__ = ["Infrastructure", "Launcher", "Pipeline", "Prepared", "Result", "SourceView", "Written", "stall_reason"]
