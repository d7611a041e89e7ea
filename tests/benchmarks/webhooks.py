"""Milliseconds until signed calls of a webhook are answered, at 200 a second, counted from when each was due.

Events of 500 bytes; each tenth starts a run, which is executed. Server, database, workers and callers share the machine.
"""

from __future__ import annotations

import statistics
from collections import Counter

from tests.benchmarks import shapes
from tests.benchmarks.bench import Bench, Cost, per_task
from tests.benchmarks.figures import Figures, Required
from tests.benchmarks.hook_calls import CONNECTIONS, add_rule, add_webhook, at_rate
from triggers.models import Event

RATE = 200
SECONDS = 20.0
#: One of ten has a rule.
TYPES = ("order.created", *("order.seen",) * 9)


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.single())
    path = add_webhook(bench, "hook")
    add_rule(bench, "starts", "single", eventType="order.created", condition="payload.amount > 1000.0")
    add_rule(bench, "refuses", "single", eventType="order.*", condition="payload.amount > 5000.0")
    bench.start(web=True)
    at_rate(bench.web_port, path, rate=50, seconds=2, prefix="warm", event_types=TYPES)
    cost = Cost()
    samples = []
    answered = Counter[int]()
    for number in range(bench.repeat):
        with bench.metered(cost):
            took, statuses, _ = at_rate(
                bench.web_port, path, rate=RATE, seconds=SECONDS, prefix=f"r{number}", event_types=TYPES
            )
        samples.append(took)
        answered.update(statuses)
    assert answered == {202: int(RATE * SECONDS) * bench.repeat}, answered
    assert Event.objects.count() == int(RATE * SECONDS) * bench.repeat + 100
    calls = sum(answered.values())
    return Figures(
        "webhooks",
        "ms p99",
        [_percentile(took, 99) for took in samples],
        [Required("value", at_most=250)],
        cpu_ms_per_task=per_task(cost.ours, calls),
        server_ms_per_task=per_task(cost.servers, calls),
        settings=bench.settings | {"rate": RATE, "seconds": SECONDS, "connections": CONNECTIONS, "bytes": 500},
        extra={
            "p50_ms": statistics.median(ms for took in samples for ms in took),
            "p95_ms": _percentile([ms for took in samples for ms in took], 95),
        },
    )


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
