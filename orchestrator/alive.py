"""Say by exit code whether a process still makes progress: a health check that costs milliseconds.

    python -m orchestrator.alive        # 0 if the loops that report in UPBEAT_PROGRESS_FILE have done so lately

Nothing is imported for it but the standard library, because it runs every few seconds in every container.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

#: Loops report every two seconds. A worker that waits for its broker to come back does not, and is no use meanwhile.
SILENT_SECONDS = 60.0


def trouble(environ: Mapping[str, str], *, now: float) -> str:
    """Return what is wrong, or nothing. A process with several loops has a file for each, and all have to report."""
    name = environ.get("UPBEAT_PROGRESS_FILE", "")
    if not name:
        return "UPBEAT_PROGRESS_FILE is not set: nothing reports"
    path = Path(name)
    files = [file for file in sorted(path.parent.glob(f"{path.name}*")) if file.is_file()]
    if not files:
        return f"{path}: nothing has reported yet"
    silent = [file.name for file in files if now - file.stat().st_mtime > SILENT_SECONDS]
    return f"{', '.join(silent)}: silent for more than {SILENT_SECONDS:.0f} s" if silent else ""


if __name__ == "__main__":
    wrong = trouble(os.environ, now=time.time())
    if wrong:
        sys.exit(wrong)
