"""Seconds from the call that cancels a run to the end of its process, for a command that obeys TERM.

The request waits in the ledger until the worker renews its leases, every 5 s; the command then ends at once.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.services.tokens import create_token
from tests.benchmarks.bench import Bench, wait_for_end
from tests.benchmarks.calls import Caller
from tests.benchmarks.figures import Figures, Required
from tests.support.waiting import eventually

RUNS = 10


def measure(bench: Bench) -> Figures:
    command = f'echo $$ > "{bench.directory}/pid-$UPBEAT_RUN_ID"; exec sleep 600'
    bench.apply(JobSpec(name="sleeping", tasks=(TaskSpec("only", "shell", config={"command": command}),)))
    bench.start(web=True)
    _, token = create_token(
        tenant=bench.tenant, name="cancel", scopes=("read", "trigger", "operate"), job_names=(), expires_at=None
    )
    caller = Caller(bench.web_port, token)
    moments = random.Random(1)
    _cancelled(bench, caller, 0.0)
    samples = [[_cancelled(bench, caller, moments.uniform(0, 5)) for _ in range(RUNS)] for _ in range(bench.repeat)]
    everything = sorted(seconds for sample in samples for seconds in sample)
    return Figures(
        "cancel",
        "s",
        [statistics.quantiles(sample, n=20)[-1] for sample in samples],
        [Required("p95_s", at_most=6)],
        settings=bench.settings | {"cancellations": RUNS * bench.repeat, "value": "p95 of each repeat"},
        extra={
            "p50_s": statistics.median(everything),
            "p95_s": statistics.quantiles(everything, n=20)[-1],
            "max_s": everything[-1],
        },
    )


def _cancelled(bench: Bench, caller: Caller, after: float) -> float:
    run_id = caller.trigger("sleeping")
    written = bench.directory / f"pid-{run_id}"
    process = Path("/proc", eventually(lambda: written.exists() and written.read_text().strip(), every=0.01))
    # Wherever the call falls between two renewals.
    time.sleep(after)
    began = time.perf_counter()
    caller.post(f"/api/v1/runs/{run_id}/cancellation", {"reason": "measured"})
    eventually(lambda: not process.exists(), every=0.005, within=30)
    seconds = time.perf_counter() - began
    assert wait_for_end(run_id) == "cancelled"
    return seconds
