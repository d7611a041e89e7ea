"""Fixtures of the races on a real database, and of real processes that are killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.concurrency.kill_load import Cluster
from tests.support.simulation import broker

__all__ = ["broker"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Servers on Redis, migrated, with no process of ours running yet."""
    with ExitStack() as stack:
        cluster = Cluster("redis", tmp_path, stack, random.Random(1))
        stack.callback(cluster.stop)
        cluster.manage("migrate", "--verbosity", "0")
        yield cluster
