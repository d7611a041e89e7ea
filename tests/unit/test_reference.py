from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_reference_is_what_the_code_says():
    tool = Path(__file__).resolve().parents[2] / "tools" / "reference.py"

    checked = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
