from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.alive import SILENT_SECONDS, trouble

ROOT = Path(__file__).resolve().parents[2]


def reported(file: Path, *, ago: float) -> None:
    file.touch()
    os.utime(file, (1_000_000 - ago, 1_000_000 - ago))


def said(file: Path) -> str:
    return trouble({"UPBEAT_PROGRESS_FILE": str(file)}, now=1_000_000)


def test_a_process_is_alive_while_each_of_its_loops_reports(tmp_path: Path) -> None:
    assert "nothing has reported" in said(tmp_path / "beat")

    reported(tmp_path / "beat.beat", ago=2)
    reported(tmp_path / "beat.reconciler", ago=2)
    assert said(tmp_path / "beat") == ""

    reported(tmp_path / "beat.reconciler", ago=SILENT_SECONDS + 1)
    assert said(tmp_path / "beat").startswith("beat.reconciler: silent")


def test_the_exit_code_is_for_a_health_check_and_needs_no_library_of_ours(tmp_path: Path) -> None:
    (tmp_path / "worker").touch()
    codes = [
        subprocess.run(
            [sys.executable, "-S", "-m", "orchestrator.alive"], cwd=ROOT, env={"UPBEAT_PROGRESS_FILE": str(file)},
            capture_output=True, check=False,
        ).returncode
        for file in (tmp_path / "worker", tmp_path / "nobody")
    ]  # fmt: skip

    assert codes == [0, 1]
