"""One attempt of an http task, as the tests of the executor make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.executors import context_for
from workers.executors.base import ExecutionResult
from workers.executors.http import HttpExecutor

FIVE_GB = 5 * 10**9


def send(url: str, *, executor: HttpExecutor | None = None, **fields: Any) -> ExecutionResult:
    """Run an attempt with these fields; `timeout`, `log`, `stop` and `allowed_networks` are the context's."""
    context = {name: fields.pop(name) for name in ("timeout", "log", "stop", "allowed_networks") if name in fields}
    return (executor or HttpExecutor()).execute(context_for({"url": url, **fields}, Path("/dev/null"), **context))
