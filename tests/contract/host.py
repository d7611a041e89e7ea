"""A process that runs attempts like a worker, to be killed: `python -m tests.contract.host <folder of an attempt>`.

The folder holds `request.json`; the log goes to `log`, the result to `ended`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.contract.executors import context_for, executor_of
from workers.executors.base import StopSignal
from workers.executors.registry import adapter_for

KEPT_BYTES = 64 * 1024


class FileLog:
    """A sink that others can read while it is written; the beginning of a flood is enough."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, chunk: bytes) -> None:
        if self._file.tell() < KEPT_BYTES:
            self._file.write(chunk)


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    workdir = folder / "workdir"
    if adapter_for(request["type"]).needs_workdir:
        workdir.mkdir(mode=0o700)
    context = context_for(
        request["config"],
        workdir,
        log=FileLog(folder / "log"),
        stop=StopSignal(),
        timeout=request["timeout"],
        connections=request["connections"],
    )
    result = executor_of(request["type"], grace=request["grace"]).execute(context)
    (folder / "ended").write_text(f"{result.failure} {result.reason}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
