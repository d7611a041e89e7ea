"""The runner starts fast because it imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from workers.runtime import runner

FOLDER = Path(runner.__file__).parent


def test_the_runner_imports_nothing_that_takes_long() -> None:
    code = f"import sys; sys.path.append({str(FOLDER)!r}); import runner; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-I", "-S", "-E", "-c", code], capture_output=True, text=True, check=True)

    slow = {"collections", "ctypes", "enum", "json", "os", "re", "shutil", "signal", "subprocess", "typing"}
    assert set(loaded.stdout.split()) & slow == set()


def test_no_module_beside_the_runner_hides_one_of_the_standard_library() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}

    assert names & sys.stdlib_module_names == set()
