"""Milliseconds from the release of a lock to the next start: 500 tasks of 10 ms, asked for in turn, under one lock.

From `ended_at` of a holder to `started_at` of the next in the ledger: settlement, grant, message and claim. The order
of starts must be the order in which they asked.
"""

from __future__ import annotations

import itertools
import statistics

from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.models import TaskRun
from tests.benchmarks.bench import Bench, wait_for_end
from tests.benchmarks.figures import Figures, Required

TASKS = 500


def measure(bench: Bench) -> Figures:
    bench.apply(_job())
    bench.start()
    _handovers(bench)
    samples = [_handovers(bench) for _ in range(bench.repeat)]
    everything = [ms for sample in samples for ms, _ in sample]
    return Figures(
        "lock_handover",
        "ms",
        [_p95([ms for ms, _ in sample]) for sample in samples],
        [Required("value", at_most=20), Required("out_of_order", at_most=0)],
        settings=bench.settings | {"tasks": TASKS, "value": "p95 of each repeat"},
        extra={
            "p50_ms": statistics.median(everything),
            "max_ms": max(everything),
            "out_of_order": float(sum(not in_order for sample in samples for _, in_order in sample)),
        },
    )


def _job() -> JobSpec:
    tasks = (
        TaskSpec(f"task_{n}", "shell", config={"command": "sleep 0.01"}, locks=("handed_over",)) for n in range(TASKS)
    )
    return JobSpec(name="lock_handover", tasks=tuple(tasks))


def _handovers(bench: Bench) -> list[tuple[float, bool]]:
    """Return of each hand-over its milliseconds, and whether the lock went to who had asked next."""
    run_id = bench.trigger("lock_handover")
    assert wait_for_end(run_id, within=180) == "succeeded"
    rows = (
        TaskRun.objects.filter(run_id=run_id).order_by("started_at").values_list("position", "started_at", "ended_at")
    )
    return [
        ((later[1] - before[2]).total_seconds() * 1000, later[0] > before[0])
        for before, later in itertools.pairwise(rows)
    ]


def _p95(sample: list[float]) -> float:
    return statistics.quantiles(sample, n=20)[-1]
