"""Names that cross a border between packages: Celery tasks, queues, kinds of transition.

Pure: imported by the canvas compiler and by every sibling. A test asserts that each Celery task name is
registered by its owner.
"""

from __future__ import annotations

from typing import Final

#: Celery task names → who owns them.
EXECUTE: Final = "workers.execute"  # (run_id, task_run_id): one attempt of one task run
ADVANCE: Final = "orchestrator.advance"  # (run_id,): plan what became final, compile what comes next
EXPAND: Final = "orchestrator.expand"  # (fragment_id, lo, hi): publish a slice of a wide chord
LAUNCH_RUNS: Final = "orchestrator.launch_runs"  # (run_ids,): admit pending runs and publish their first fragments

#: Lanes: queues with worker processes of their own. What a definition calls `pool` names one.
CONTROL_LANE: Final = "control"
DEFAULT_LANE: Final = "default"
BUILT_IN_POOLS: Final = ("default", "long", "bulk")

#: Remote control: a worker answers with the seconds of its host's clock.
CLOCK: Final = "upbeat_clock"

#: Flower shows this for each message: `job #run task`, at most so many bytes.
LABEL_BYTES: Final = 140
