"""CPU milliseconds of our processes per no-op task, and SQL statements per header of a 500-wide fan-out.

Statements are those of a whole run, divided by its headers; BEGIN and COMMIT are not counted, leases never need
renewing in so short a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection

from orchestrator.models import JobRun, TaskRun
from orchestrator.services.runs import advance_run, launch_runs
from orchestrator.states import RunState, TaskState
from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench, Cost, per_task
from tests.benchmarks.figures import Figures, Required
from workers.runtime.attempt import run_attempt

WIDTH = 500
#: A fan-out is planned once, layers are planned by every task: the two ends of what a task can cost.
SHAPES = {"fanout500": (shapes.fanout(WIDTH), raw_celery.fanout(WIDTH)),
          "layered10x50": (shapes.layered(10, 50), raw_celery.layers(10, 50))}  # fmt: skip


def measure(bench: Bench) -> Figures:
    for spec, _ in SHAPES.values():
        bench.apply(spec)
    bench.start()
    bench.start_raw()
    costs = {name: (Cost(), Cost()) for name in SHAPES}
    for repeat in range(bench.repeat + 1):
        for name, (spec, canvas) in SHAPES.items():
            with bench.metered(costs[name][0] if repeat else Cost()):
                bench.run(spec.name)
            with bench.metered(costs[name][1] if repeat else Cost()):
                raw_celery.run(canvas)
    counts = {name: len(spec.tasks) * bench.repeat for name, (spec, _) in SHAPES.items()}
    tasks = sum(counts.values())
    ours = per_task(sum(cost.ours for cost, _ in costs.values()), tasks)
    for name in list(bench.processes):
        bench.stop(name)
    return Figures(
        "task_cost",
        "ms",
        [ours],
        [Required("value", at_most=2.5), Required("statements", at_most=6)],
        # With its servers, as the comparison of raw Celery counts.
        baselines=[per_task(sum(cost.raw for _, cost in costs.values()), tasks)],
        cpu_ms_per_task=ours,
        server_ms_per_task=per_task(sum(cost.servers for cost, _ in costs.values()), tasks),
        settings=bench.settings,
        extra={
            **{f"cpu_ms_{name}": per_task(cost.ours, counts[name]) for name, (cost, _) in costs.items()},
            "statements": statements_of_fanout(bench) / WIDTH,
        },
    )


def statements_of_fanout(bench: Bench) -> int:
    """Do in this process all that the workers do for one run, and count what goes to the database."""
    counted = 0

    def count(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal counted
        counted += 1
        return execute(*arguments)

    with connection.execute_wrapper(count):
        run_id = bench.trigger(f"fanout{WIDTH}")
        launch_runs([run_id])
    ready = TaskRun.objects.filter(run_id=run_id, state=TaskState.READY)
    # Split, headers, join: what is ready now, until nothing is.
    while task_runs := list(ready.values_list("pk", flat=True)):
        with connection.execute_wrapper(count):
            for task_run in task_runs:
                run_attempt(task_run, worker="bench")
            advance_run(run_id)
    assert JobRun.objects.get(pk=run_id).state == RunState.SUCCEEDED
    return counted
