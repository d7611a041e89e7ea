"""Seconds from a written line to its bytes in an answer of the API, and what a flood of 100 MB costs.

A command prints the time four times a second; a caller asks for the log again and again and compares. The flood is
measured in the ledger, from start to end of its attempt, with the log kept whole; growth is that of the workers'
memory while it runs, after a first flood.
"""

from __future__ import annotations

import threading
import time

import psutil

from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.models import Attempt
from tests.benchmarks.bench import Bench, wait_for_end
from tests.benchmarks.calls import Caller
from tests.benchmarks.figures import Figures, Required
from tests.support.waiting import eventually

LINES = 20
FLOOD_BYTES = 100_000_000
CLOCK = f"import time\nfor _ in range({LINES}):\n    print(time.time())\n    time.sleep(0.25)\n"
FLOOD = f"yes 'a line of output, 2026-11-21 12:00:00 INFO 4711 rows done' | head -c {FLOOD_BYTES}"


def measure(bench: Bench) -> Figures:
    for name, task in {
        "clock": TaskSpec("only", "script", config={"script": CLOCK, "interpreter": ["python3"]}),
        "flood": TaskSpec("only", "shell", config={"command": FLOOD}),
    }.items():
        bench.apply(JobSpec(name=name, tasks=(task,)))
    bench.start(web=True)
    caller = Caller(bench.web_port, bench.token())
    _follow(caller)
    delays = [_follow(caller) for _ in range(bench.repeat)]
    for _ in range(len(bench.processes)):
        _flood(bench)  # every worker has had one
    floods = [_flood(bench) for _ in range(bench.repeat)]
    return Figures(
        "log_follow",
        "s",
        [max(seconds) for seconds in delays],
        [Required("value", at_most=1), Required("mb_per_s", at_least=50), Required("growth_mb", at_most=16)],
        settings=bench.settings | {"lines": LINES, "flood_bytes": FLOOD_BYTES, "value": "the slowest line"},
        extra={
            "mb_per_s": sorted(rate for rate, _ in floods)[len(floods) // 2],
            "growth_mb": max(mb for _, mb in floods),
        },
    )


def _follow(caller: Caller) -> list[float]:
    run_id = caller.trigger("clock")
    attempt = eventually(lambda: Attempt.objects.filter(task_run__run_id=run_id).first(), every=0.005)
    delays: list[float] = []
    offset = 0
    rest = b""
    while len(delays) < LINES:
        seen = caller.get(f"/api/v1/attempts/{attempt.pk}/log?offset={offset}")
        now = time.time()
        offset += len(seen)
        *lines, rest = (rest + seen).split(b"\n")
        delays += [now - float(line) for line in lines]
        time.sleep(0.02)
    assert wait_for_end(run_id) == "succeeded"
    return delays


def _flood(bench: Bench) -> tuple[float, float]:
    """Return megabytes per second, and by how many megabytes the workers' memory grew meanwhile."""
    before = peak = _largest_mb(bench)
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            peak = max(peak, _largest_mb(bench))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_id = bench.trigger("flood")
        assert wait_for_end(run_id) == "succeeded"
    finally:
        over.set()
        watcher.join()
    attempt = Attempt.objects.get(task_run__run_id=run_id)
    assert attempt.ended_at is not None
    return FLOOD_BYTES / 1e6 / (attempt.ended_at - attempt.started_at).total_seconds(), peak - before


def _largest_mb(bench: Bench) -> float:
    """Memory of the workers themselves: what the command uses is its own affair."""
    workers = [psutil.Process(process.pid) for name, process in bench.processes.items() if name.startswith("w")]
    return sum(worker.memory_info().rss for worker in workers) / 2**20
