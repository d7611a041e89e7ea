"""Tasks per second of 10,000 tasks with 1 to 3 upstreams each, and whether anything grows with the run.

`advance_ms_…` is read from the ledger: from the moment of a settlement to the next claim of the same slot, in which
the slot plans what follows, commits, publishes and takes its next message; the median of the first and the last
tenth of the run. No canvas has this shape: the baseline is as many messages without any order.
"""

from __future__ import annotations

import time

from django.db import connection

from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench, Cost, per_task, wait_for_end
from tests.benchmarks.figures import Figures, Required

TASKS = 10_000
WITHIN = 110.0


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.dag(TASKS))
    bench.apply(shapes.fanout(50))
    bench.start()
    bench.start_raw()
    bench.run("fanout50")
    rates, raw_rates, admissions, cost = [], [], [], Cost()
    first: list[float] = []
    last: list[float] = []
    memory_at_start = 0.0
    for repeat in range(bench.repeat):
        with bench.metered(cost):
            began = time.perf_counter()
            run_id = bench.trigger(f"dag{TASKS}")
            _wait_for_tasks(run_id, ended=0)
            admissions.append(time.perf_counter() - began)
            if not repeat:
                # Every cache has been filled by then: definitions, connections, prepared statements.
                _wait_for_tasks(run_id, ended=TASKS // 5)
                memory_at_start = bench.resident_mb()
            state = wait_for_end(run_id, within=WITHIN)
            rates.append(TASKS / (time.perf_counter() - began))
        assert state == "succeeded", f"run {run_id}: {state}"
        gaps = _gaps(run_id)
        tenth = len(gaps) // 10
        first += gaps[:tenth]
        last += gaps[-tenth:]
        raw_rates.append(2000 / raw_celery.run_many(2000))
    return Figures(
        "dag10000",
        "tasks/s",
        rates,
        [
            Required("value", at_least=300),
            Required("admission_s", at_most=3),
            Required("advance_ms_first", at_most=20),
            Required("advance_ms_last", at_most=20),
            Required("worker_rss_growth_mb", at_most=20),
        ],
        baselines=raw_rates,
        cpu_ms_per_task=per_task(cost.ours, TASKS * bench.repeat),
        server_ms_per_task=per_task(cost.servers, TASKS * bench.repeat),
        settings=bench.settings | {"raw": "2,000 messages in no order"},
        extra={
            "admission_s": sorted(admissions)[len(admissions) // 2],
            "advance_ms_first": _median(first),
            "advance_ms_last": _median(last),
            "worker_rss_growth_mb": bench.resident_mb() - memory_at_start,
        },
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _wait_for_tasks(run_id: int, *, ended: int) -> None:
    """Wait until the run is admitted (its tasks are there to be seen) and so many of them have ended."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*), count(*) filter (where ended_at is not null) from orchestrator_taskrun where run_id = %s",
                [run_id],
            )
            there, finished = cursor.fetchone()
        if there == TASKS and finished >= ended:
            return
        time.sleep(0.02)
    raise AssertionError(f"run {run_id} did not come so far within {WITHIN:g} s")


def _gaps(run_id: int) -> list[float]:
    """Milliseconds between each settlement and the same slot's next claim, in the order of the settlements."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            with moves as (
                select at, cause, lead(at) over w as next_at, lead(cause) over w as next_cause
                  from orchestrator_transition
                 where run_id = %s and subject = 'task_run' and cause in ('claim', 'settle')
                window w as (partition by by order by id)
            )
            select extract(epoch from next_at - at)::float8 * 1000 from moves
             where cause = 'settle' and next_cause = 'claim' order by at""",
            [run_id],
        )
        return [gap for (gap,) in cursor.fetchall()]
