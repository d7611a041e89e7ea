"""One shell text, run by each executor of local processes: what holds for one must hold for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.contract.executors import LOCAL, context_for
from workers.executors.base import ExecutionResult
from workers.executors.process import LocalProcess

#: Modules that tests call; on the path of python tasks by `env`.
CALLS = str(Path(__file__).parent / "calls")


def fields_of(task_type: str, text: str, **fields: Any) -> Mapping[str, Any]:
    """Fields of a task that runs a shell text."""
    match task_type:
        case "shell":
            return {"command": text, **fields}
        case "script":
            return {"script": text, **fields}
        case "python":
            return {"call": "subprocess:call", "args": [["/bin/sh", "-c", text]], **fields}
    raise ValueError(task_type)


def run(task_type: str, config: Mapping[str, Any], workdir: Path, **options: Any) -> ExecutionResult:
    """Run an attempt by an executor that is less patient than a worker's; `process` replaces how it runs."""
    process = options.pop("process", None) or LocalProcess(grace=0.3)
    return LOCAL[task_type](process).execute(context_for(config, workdir, **options))
