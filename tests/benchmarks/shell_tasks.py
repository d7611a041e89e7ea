"""Tasks per second of `true` as a shell task in the slots of two workers, beside the same runner started bare.

Bare is what cannot be saved: as many threads that each start a runner with `/bin/sh -c true`, one after another. The
overhead is what a slot spends on a task beyond that: message, claim, fields, directory, log, settlement.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.models import TaskRun
from tests.benchmarks.bench import SLOTS, Bench, per_task
from tests.benchmarks.figures import Figures, Required
from workers.executors.base import StopSignal
from workers.runtime.subprocesses import Cause, Limits, run_tree

TASKS = 200


def measure(bench: Bench) -> Figures:
    tasks = tuple(TaskSpec(f"task_{n}", "shell", config={"command": "true"}) for n in range(TASKS))
    bench.apply(JobSpec(name="shell_tasks", tasks=tasks))
    bench.start()
    found = bench.compare(lambda: bench.run("shell_tasks"), _bare, warm_up=1)
    overheads = [
        per_task((ours - bare) * SLOTS, TASKS) for ours, bare in zip(found.seconds, found.raw_seconds, strict=True)
    ]
    return Figures(
        "shell_tasks",
        "tasks/s",
        [TASKS / seconds for seconds in found.seconds],
        [Required("value", at_least=60), Required("overhead_ms", at_most=10)],
        baselines=[TASKS / seconds for seconds in found.raw_seconds],
        cpu_ms_per_task=per_task(found.cost.ours, TASKS * found.runs),
        server_ms_per_task=per_task(found.cost.servers, TASKS * found.runs),
        settings=bench.settings | {"tasks": TASKS, "raw": f"the runner alone, {SLOTS} threads"},
        extra={"overhead_ms": statistics.median(overheads), "held_ms": _held_ms()},
    )


def _held_ms() -> float:
    """From claim to settlement, by the ledger."""
    last = TaskRun.objects.order_by("-run_id").values_list("started_at", "ended_at")[:TASKS]
    return statistics.median((ended - started).total_seconds() * 1000 for started, ended in last)


def _bare() -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(lambda _: _run_true(), range(TASKS)))
    return time.perf_counter() - began


def _run_true() -> None:
    ending = run_tree(
        ["/bin/sh", "-c", "true"],
        environment={"PATH": "/usr/bin:/bin"},
        cwd=Path(tempfile.gettempdir()),
        remove=None,
        limits=Limits(),
        timeout=60,
        stop=StopSignal(),
        on_output=lambda chunk: None,
    )
    assert ending.cause is Cause.ENDED
