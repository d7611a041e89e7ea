"""Tasks per second, ten layers of 50 with three random upstreams each; raw Celery has barriers between its layers."""

from __future__ import annotations

from tests.benchmarks import raw_celery, shapes, throughput
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures


def measure(bench: Bench) -> Figures:
    return throughput.measure(bench, "layered10x50", shapes.layered(10, 50), raw_celery.layers(10, 50), at_least=250)
