"""Milliseconds from an idle trigger call over HTTP to the start of the run's first task.

From the caller's clock just before the call to `started_at` in the ledger; both are this machine's clock.
"""

from __future__ import annotations

import statistics
import time

from orchestrator.models import TaskRun
from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench, wait_for_end
from tests.benchmarks.calls import Caller
from tests.benchmarks.figures import Figures, Required

CALLS = 50
#: Between two calls, so that each finds everything idle.
PAUSE_SECONDS = 0.05


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.single())
    bench.start(web=True)
    bench.start_raw()
    caller = Caller(bench.web_port, bench.token())
    _ours(caller)
    _raw()
    ours, raw = [], []
    for _ in range(bench.repeat):
        ours.append(_ours(caller))
        raw.append(_raw())
    return Figures(
        "start_latency",
        "ms",
        [statistics.median(sample) for sample in ours],
        [Required("p50_ms", at_most=15), Required("p95_ms", at_most=40)],
        baselines=[statistics.median(sample) for sample in raw],
        settings=bench.settings | {"calls": CALLS * bench.repeat},
        extra={
            "p50_ms": statistics.median(ms for sample in ours for ms in sample),
            "p95_ms": _p95(ours),
            "raw_p95_ms": _p95(raw),
        },
    )


def _p95(samples: list[list[float]]) -> float:
    return statistics.quantiles((ms for sample in samples for ms in sample), n=20)[-1]


def _ours(caller: Caller) -> list[float]:
    found = []
    for _ in range(CALLS):
        time.sleep(PAUSE_SECONDS)
        called = time.time()
        run_id = caller.trigger("single")
        assert wait_for_end(run_id) == "succeeded"
        started = TaskRun.objects.values_list("started_at", flat=True).get(run_id=run_id)
        assert started is not None
        found.append((started.timestamp() - called) * 1000)
    return found


def _raw() -> list[float]:
    found = []
    for _ in range(CALLS):
        time.sleep(PAUSE_SECONDS)
        found.append(raw_celery.start_seconds() * 1000)
    return found
