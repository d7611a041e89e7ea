"""Why admission holds a run back or ends it: stored with the run, and what queries recognise it by.

A pending run with an empty reason is one that nobody has looked at yet.
"""

from __future__ import annotations

from typing import Final

#: Reasons of pending runs.
JOB_PAUSED: Final = "job is paused"
JOB_FULL: Final = "as many runs of the job as may are running"
KEY_TURN: Final = "an earlier run of its concurrency key is open"

#: Reasons of runs that ended cancelled without having started.
EXPIRED: Final = "expired"
DROPPED: Final = "concurrency_drop"
DROPPED_WHILE_PAUSED: Final = "job_paused"
RULE_DELETED: Final = "rule_deleted"
