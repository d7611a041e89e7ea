"""One benchmark in its process: the environment is set, so Django can be loaded before anything that needs it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import django

from tests.support.provision import end_on_term


def main(name: str, repeat: str, directory: str) -> int:
    end_on_term()
    django.setup()
    from tests.benchmarks.bench import Bench

    benchmark = importlib.import_module(f"tests.benchmarks.{name}")
    with Bench(Path(directory), repeat=int(repeat)) as bench:
        figures = benchmark.measure(bench)
    figures.write(Path("build/benchmarks") / f"{figures.name}.json")
    print(figures.row(), flush=True)
    return 0 if figures.reached else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
