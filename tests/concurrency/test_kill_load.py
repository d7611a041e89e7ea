"""A mixed load while everything is killed. `SOAK=1` repeats it with further seeds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.kill

SOAK = bool(os.environ.get("SOAK"))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("repeat", range(10 if SOAK else 1))
def test_killing_everything_under_load_loses_and_doubles_nothing(broker: str, repeat: int, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")

    ended = subprocess.run(
        [sys.executable, "-m", "tests.concurrency.kill_load", "--broker", broker, "--runs", "300", "--seed", str(seed),
         "--home", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
