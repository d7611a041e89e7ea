"""Tasks per second, 1 → 500 → 1."""

from __future__ import annotations

from tests.benchmarks import raw_celery, shapes, throughput
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures


def measure(bench: Bench) -> Figures:
    return throughput.measure(bench, "fanout500", shapes.fanout(500), raw_celery.fanout(500), at_least=300)
