"""What the documentation shows of tasks that run local processes does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import KeptResult, LocalStore, log_key
from tests.contract.executors import inputs_for
from tests.support.definitions import spec_of
from workers.executors.base import StopSignal
from workers.runtime.execution import execute_attempt

PAGE = (Path(__file__).parents[2] / "docs" / "write-jobs.md").read_text()


def example_of(task_type: str) -> str:
    """The YAML block in the part about a task type."""
    found = re.search(rf"### `{task_type}`\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"docs/write-jobs.md shows no {task_type} task"
    return found.group(1)


@pytest.mark.parametrize(
    ("task_type", "results", "last_log"),
    [
        ("shell", {"count": {"words": 6}, "check": None}, ""),
        ("script", {"count": {"to": 2, "be": 2, "or": 1, "not": 1}, "show": None}, "- to: 2\n- be: 2\n"),
        ("python", {"average": 5, "rounded": 5}, ""),
    ],
)
def test_the_example_of_a_type_runs_and_gives_what_it_promises(
    task_type: str, results: dict[str, Any], last_log: str, tmp_path: Path
) -> None:
    spec = spec_of(example_of(task_type))
    store = LocalStore(tmp_path / "store")
    found: dict[str, KeptResult] = {}

    for task in spec.tasks:
        assert task.type == task_type
        inputs = inputs_for(
            task.type,
            task.config,
            task_name=task.name,
            parameters={parameter.name: parameter.default for parameter in spec.parameters},
            results=dict(found),
        )
        outcome = execute_attempt(inputs, reveal=lambda names: {}, store=store, stop=StopSignal(), scratch=tmp_path)
        assert outcome.result.failure is None, (task.name, outcome.result.reason)
        found[task.name] = outcome.kept

    assert {name: kept.inline for name, kept in found.items()} == results
    assert store.read(log_key(7, 700)).decode().endswith(last_log)
