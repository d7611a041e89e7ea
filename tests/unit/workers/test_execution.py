"""An attempt between claim and settlement: whatever happens is an outcome with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import LocalStore, load_result, local, log_key, open_store
from tests.contract.executors import inputs_for
from workers.executors import registry
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind, StopSignal
from workers.executors.noop import NoopExecutor
from workers.runtime import attempt
from workers.runtime.execution import Outcome, execute_attempt


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def execute(store: LocalStore, task_type: str = "shell", **overrides: Any) -> Outcome:
    secrets = overrides.pop("secrets", {})
    config = overrides.pop("config", {})
    return execute_attempt(
        inputs_for(task_type, config, **overrides),
        reveal=lambda names: {name: secrets[name] for name in names if name in secrets},
        store=store,
        stop=StopSignal(),
    )


def test_a_small_result_is_handed_back_and_a_large_one_is_stored(store: LocalStore) -> None:
    small = execute(store, config={"command": "echo '[1]'", "result": "json"})
    large = execute(store, config={"command": "python3 -c 'print([0] * 20000)' > $UPBEAT_RESULT", "result": "file"})

    assert (small.kept.inline, small.kept.ref) == ([1], "")
    assert large.kept.inline is None
    assert load_result(store, large.kept) == [0] * 20000


def test_a_secret_is_masked_in_the_result_too(store: LocalStore) -> None:
    outcome = execute(
        store,
        config={"command": 'echo "[\\"$KEY\\"]"', "env": {"KEY": "${params.key}"}, "result": "json"},
        parameters={"key": {"secret": "k"}},
        secret_parameters=["key"],
        secrets={"k": "hunter2"},
    )

    assert outcome.kept.inline == ["***"]
    assert store.read(log_key(7, 700)) == b'["***"]\n'


def test_what_cannot_be_rendered_is_a_permanent_failure(store: LocalStore) -> None:
    outcome = execute(store, config={"command": "true", "args": ["${params.nope}"]})

    assert outcome.result.failure is FailureKind.PERMANENT
    assert "params.nope" in outcome.result.reason


def test_an_unknown_task_type_is_a_permanent_failure(store: LocalStore) -> None:
    assert execute(store, "shel").result.failure is FailureKind.PERMANENT


def test_a_missing_secret_is_a_permanent_failure_that_names_its_parameter(store: LocalStore) -> None:
    outcome = execute(
        store,
        config={"command": "true", "env": {"KEY": "${params.key}"}},
        parameters={"key": {"secret": "gone"}},
        secret_parameters=["key"],
    )

    assert (outcome.result.failure, outcome.result.reason) == (
        FailureKind.PERMANENT,
        "the secret of the parameter 'key' does not exist",
    )


def test_secrets_that_cannot_be_read_leave_another_try(store: LocalStore) -> None:
    def unreachable(names: list[str]) -> dict[str, str]:
        raise ConnectionError("password=hunter2")

    inputs = inputs_for(
        "shell",
        {"command": "true", "env": {"KEY": "${params.key}"}},
        parameters={"key": {"secret": "k"}},
        secret_parameters=["key"],
    )

    outcome = execute_attempt(inputs, reveal=unreachable, store=store, stop=StopSignal())

    assert outcome.result.failure is FailureKind.RETRYABLE
    assert outcome.result.reason == "the secrets could not be read: ConnectionError"


def test_a_result_that_cannot_be_kept_fails_the_attempt(store: LocalStore) -> None:
    (store.root).mkdir()
    (store.root / "results").write_text("in the way")

    outcome = execute(store, config={"command": "python3 -c 'print([0] * 20000)'", "result": "json"})

    assert outcome.result.failure is FailureKind.RETRYABLE
    assert str(store.root) in outcome.result.reason


def test_a_log_that_cannot_be_kept_does_not_fail_the_attempt(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers every write as a full disk does."""
    monkeypatch.setattr(local, "_open_log", lambda path: os.open("/dev/full", os.O_WRONLY))

    outcome = execute(store, config={"command": "echo hello"})

    assert outcome.result.failure is None
    assert outcome.log_bytes_lost == 6
    assert "No space left on device" in outcome.log_problem


def test_a_defect_in_an_executor_is_an_unknown_outcome(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: NoopExecutor, context: ExecutionContext) -> ExecutionResult:
        raise ZeroDivisionError

    monkeypatch.setattr(NoopExecutor, "execute", broken)

    outcome = execute(store, "noop")

    assert outcome.result.failure is FailureKind.UNKNOWN
    assert outcome.result.reason == "defect in the executor: ZeroDivisionError"


def test_the_log_has_no_file_when_nothing_was_said(store: LocalStore) -> None:
    execute(store, "noop")

    assert not store.root.exists()


def test_the_registry_loads_neither_django_nor_celery() -> None:
    code = (
        "import sys, workers.executors.registry, workers.runtime.execution as e;"
        "print(sorted({'django', 'celery', 'kombu', 'httpx', 'sqlalchemy'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_each_task_type_is_registered_under_its_own_name() -> None:
    names = [adapter.type.name for adapter in registry.ADAPTERS]
    assert len(set(names)) == len(names)
    assert all(registry.adapter_for(name).type.name == name for name in names)


def test_a_store_that_nobody_can_mean_is_the_reason_of_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that raised would hold its lease to the end and count as lost."""
    monkeypatch.setattr(attempt, "_inputs", lambda claimed: inputs_for("noop", {}))
    monkeypatch.setattr(attempt, "store_of_process", lambda: open_store("s3://logs?regoin=eu-central-1"))

    outcome = attempt._execute(None, StopSignal())  # type: ignore[arg-type]  # only _inputs looks at the claim

    assert outcome.result.failure is FailureKind.RETRYABLE
    assert outcome.result.reason == "UPBEAT_STORE_URL: 'regoin' is not known: expected endpoint or region"
