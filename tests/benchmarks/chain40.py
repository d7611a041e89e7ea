"""Seconds for a chain of 40 no-ops, trigger call to seen end, by the caller's clock."""

from __future__ import annotations

from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench, per_task
from tests.benchmarks.figures import Figures, Required

TASKS = 40


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.chain(TASKS))
    bench.start()
    bench.start_raw()
    found = bench.compare(lambda: bench.run(f"chain{TASKS}"), lambda: raw_celery.run(raw_celery.line(TASKS)), runs=5)
    tasks = TASKS * found.runs
    return Figures(
        "chain40",
        "s",
        found.seconds,
        [Required("value", at_most=0.5)],
        baselines=found.raw_seconds,
        cpu_ms_per_task=per_task(found.cost.ours, tasks),
        server_ms_per_task=per_task(found.cost.servers, tasks),
        settings=bench.settings,
    )
