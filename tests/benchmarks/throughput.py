"""Tasks per second of one run of a job, trigger call to seen end, beside the raw canvas of the same shape."""

from __future__ import annotations

from orchestrator.dag.spec import JobSpec
from tests.benchmarks import raw_celery
from tests.benchmarks.bench import Bench, per_task
from tests.benchmarks.figures import Figures, Required


def measure(bench: Bench, name: str, spec: JobSpec, canvas: raw_celery.Canvas, *, at_least: float) -> Figures:
    bench.apply(spec)
    bench.start()
    bench.start_raw()
    found = bench.compare(lambda: bench.run(spec.name), lambda: raw_celery.run(canvas), runs=2)
    count = len(spec.tasks)
    tasks = count * found.runs
    return Figures(
        name,
        "tasks/s",
        [count / seconds for seconds in found.seconds],
        [Required("value", at_least=at_least)],
        baselines=[count / seconds for seconds in found.raw_seconds],
        cpu_ms_per_task=per_task(found.cost.ours, tasks),
        server_ms_per_task=per_task(found.cost.servers, tasks),
        settings=bench.settings,
        extra={"raw_cpu_ms_per_task": per_task(found.raw_cost.raw, tasks)},
    )
