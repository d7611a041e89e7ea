"""Runs per second: 200 single-task runs, triggered through the API by 4 clients; first call to last seen end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from django.db import connection

from tests.benchmarks import raw_celery, shapes
from tests.benchmarks.bench import Bench, per_task
from tests.benchmarks.calls import Caller
from tests.benchmarks.figures import Figures, Required

RUNS = 200
CLIENTS = 4


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.single())
    bench.start(web=True)
    bench.start_raw()
    token = bench.token()
    callers = [Caller(bench.web_port, token) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:

        def ours() -> float:
            began = time.perf_counter()
            ids = [id for ids in pool.map(_trigger_share, callers) for id in ids]
            _wait_for_all(ids)
            return time.perf_counter() - began

        found = bench.compare(ours, lambda: raw_celery.run_many(RUNS))
    tasks = RUNS * found.runs
    return Figures(
        "runs200",
        "runs/s",
        [RUNS / seconds for seconds in found.seconds],
        [Required("value", at_least=100)],
        baselines=[RUNS / seconds for seconds in found.raw_seconds],
        cpu_ms_per_task=per_task(found.cost.ours, tasks),
        server_ms_per_task=per_task(found.cost.servers, tasks),
        settings=bench.settings | {"clients": CLIENTS, "raw": "200 messages without HTTP"},
    )


def _trigger_share(caller: Caller) -> list[int]:
    return [caller.trigger("single") for _ in range(RUNS // CLIENTS)]


def _wait_for_all(ids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from orchestrator_jobrun where id >= %s and state = 'succeeded'", [min(ids)]
            )
            if cursor.fetchone()[0] == len(ids):
                return
        time.sleep(0.005)
    raise AssertionError(f"{len(ids)} runs did not all succeed within 60 s")
