"""What every executor must do. An adapter runs the suite by subclassing it with its own settings.

`ExecutorContract` is for all of them, `EndingContract` for those whose work takes time, `LongRunningContract` for those
of them whose work also writes to the log.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

import jsonschema
import pytest

from orchestrator.errors import NotFound
from orchestrator.store import LocalStore, log_key
from tests.support.waiting import eventually
from workers.executors import registry
from workers.executors.base import ExecutionContext, Executor, FailureKind, LogSink, StopSignal
from workers.executors.process import LocalProcess
from workers.executors.python import PythonExecutor
from workers.executors.script import ScriptExecutor
from workers.executors.shell import ShellExecutor
from workers.runtime.execution import Outcome, Revealed, execute_attempt
from workers.runtime.parameters import Inputs

ROOT = Path(__file__).parents[2]
#: Where the servers of tests listen; a tenant without this may not reach them.
LOOPBACK = ("127.0.0.0/8",)


class Recorder:
    """A sink in memory; of a flood it keeps the beginning."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False
        self.late = False

    def write(self, chunk: bytes) -> None:
        if len(self.data) < 64 * 1024:
            self.data += chunk
        self.late |= self.closed


def context_for(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    log: LogSink | None = None,
    stop: StopSignal | None = None,
    timeout: float = 20.0,
    resources: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    allowed_networks: tuple[str, ...] = LOOPBACK,
    connections: Mapping[str, str] | None = None,
) -> ExecutionContext:
    """An attempt of nobody in particular; `connections` are the stored ones, name → URL."""
    known = connections or {}

    def connection(name: str) -> str:
        if name not in known:
            raise NotFound(f"There is no connection {name!r}.")
        return known[name]

    return ExecutionContext(
        run_id=7,
        task_run_id=70,
        attempt_id=700,
        attempt_number=1,
        job_name="nightly",
        task_name="extract",
        config=config,
        timeout=timeout,
        resources=resources or {},
        workdir=workdir,
        log=log or Recorder(),
        stop=stop or StopSignal(),
        environment=environment or {},
        allowed_networks=allowed_networks,
        connection=connection,
    )


def inputs_for(task_type: str, config: Mapping[str, Any], **overrides: Any) -> Inputs:
    """What the ledger would say of an attempt of nobody in particular."""
    values: dict[str, Any] = {
        "run_id": 7,
        "task_run_id": 70,
        "attempt_id": 700,
        "attempt_number": 1,
        "job_name": "nightly",
        "task_name": "extract",
        "task_type": task_type,
        "config": config,
        "timeout": 20.0,
        "logical_date": datetime(2026, 11, 21, tzinfo=UTC),
        "allowed_networks": LOOPBACK,
    }
    return Inputs(**{**values, **overrides})


#: Executors that run a process of this host.
LOCAL: Mapping[str, Callable[[LocalProcess], Executor]] = {
    "shell": ShellExecutor,
    "script": ScriptExecutor,
    "python": PythonExecutor,
}


def executor_of(task_type: str, *, grace: float) -> Executor:
    """An executor as a worker has it, but less patient."""
    patient = registry.executor_for(task_type)
    return LOCAL[task_type](LocalProcess(grace=grace)) if task_type in LOCAL else patient


class Host:
    """An attempt in a process of its own, which may be killed."""

    def __init__(
        self,
        folder: Path,
        task_type: str,
        config: Mapping[str, Any],
        *,
        grace: float = 0.3,
        timeout: float = 60.0,
        connections: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir()
        request = {
            "type": task_type,
            "config": config,
            "timeout": timeout,
            "grace": grace,
            "connections": dict(connections or {}),
        }
        (folder / "request.json").write_text(json.dumps(request))
        self.process = subprocess.Popen([sys.executable, "-m", "tests.contract.host", str(folder)], cwd=ROOT)

    def log(self) -> bytes:
        path = self.folder / "log"
        return path.read_bytes() if path.exists() else b""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class ExecutorContract:
    """For every executor: settings in, then what must hold."""

    type: ClassVar[str]
    #: Fields that succeed at once.
    good: ClassVar[Mapping[str, Any]]
    #: Fields that pass no schema or cannot be used, each with the field that the reason must name.
    bad: ClassVar[tuple[tuple[Mapping[str, Any], str], ...]] = ()
    #: Fields that cannot be used though they pass the schema: what a placeholder may turn them into.
    unusable: ClassVar[tuple[tuple[Mapping[str, Any], str], ...]] = ()

    #: The stored connections, name → URL.
    connections: Mapping[str, str] = {}

    @pytest.fixture
    def executor(self) -> Executor:
        return executor_of(self.type, grace=0.3)

    def context(self, config: Mapping[str, Any], workdir: Path, **more: Any) -> ExecutionContext:
        return context_for(config, workdir, connections=self.connections, **more)

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "store")

    def attempt(self, store: LocalStore, config: Mapping[str, Any], **overrides: Any) -> Outcome:
        from orchestrator.services.connections import secrets_of  # not in a process without settings

        secrets = overrides.pop("secrets", {})
        scratch = store.root.parent / "scratch"
        scratch.mkdir(exist_ok=True)
        return execute_attempt(
            inputs_for(self.type, config, **overrides),
            reveal=lambda names: {name: secrets[name] for name in names},
            connection=lambda name: Revealed(self.connections[name], secrets_of(self.connections[name])),
            store=store,
            stop=StopSignal(),
            scratch=scratch,
        )

    def test_it_succeeds(self, executor: Executor, tmp_path: Path) -> None:
        result = executor.execute(self.context(self.good, tmp_path))

        assert (result.failure, result.reason) == (None, "")

    def test_its_schema_takes_good_fields_and_no_others(self) -> None:
        schema = registry.adapter_for(self.type).type.schema
        validator = jsonschema.Draft202012Validator(schema)

        validator.validate(dict(self.good))
        assert schema["additionalProperties"] is False
        assert not validator.is_valid({**self.good, "no_such_field": 1})

    def test_its_schema_refuses_bad_fields(self) -> None:
        validator = jsonschema.Draft202012Validator(registry.adapter_for(self.type).type.schema)

        accepted = [fields for fields, _ in self.bad if validator.is_valid(fields)]

        assert accepted == []

    def test_bad_fields_are_a_permanent_failure_that_names_the_field(self, executor: Executor, tmp_path: Path) -> None:
        for fields, named in (*self.bad, *self.unusable):
            result = executor.execute(self.context(fields, tmp_path))

            assert result.failure is FailureKind.PERMANENT, fields
            assert named in result.reason, fields

    def test_it_reports_once_and_writes_nothing_afterwards(self, executor: Executor, tmp_path: Path) -> None:
        log = Recorder()

        executor.execute(self.context(self.good, tmp_path, log=log))
        log.closed = True

        time.sleep(0.05)
        assert not log.late

    def test_one_instance_serves_many_threads(self, executor: Executor, tmp_path: Path) -> None:
        folders = [tmp_path / str(n) for n in range(8)]
        for folder in folders:
            folder.mkdir()

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda folder: executor.execute(self.context(self.good, folder)), folders))

        assert [result.failure for result in results] == [None] * 8

    def test_an_attempt_leaves_no_file_behind(self, store: LocalStore) -> None:
        outcome = self.attempt(store, self.good)

        assert outcome.result.failure is None
        assert list((store.root.parent / "scratch").iterdir()) == []


class EndingContract(ExecutorContract):
    """For executors whose work takes time."""

    def long(self, witness: Path) -> Mapping[str, Any]:
        """Fields of work that takes minutes, writes `up` to its log and goes on appending to `witness`."""
        raise NotImplementedError

    def began(self, witness: Path) -> bool:
        """Say whether that work ever began."""
        return witness.exists()

    def size(self, witness: Path) -> int:
        """Return how far that work has come; it stands still when nothing is left of it."""
        return witness.stat().st_size if witness.exists() else 0

    def left_nothing(self, host: Host) -> bool:
        """Say whether what a killed worker had made for its attempt is gone."""
        return not (host.folder / "workdir").exists()

    def goes_on(self, witness: Path) -> bool:
        before = self.size(witness)
        time.sleep(0.25)
        return self.size(witness) != before

    def assert_still(self, witness: Path) -> None:
        assert self.began(witness), "the work never began"
        assert not self.goes_on(witness), "the work goes on"

    def test_it_ends_at_its_deadline(self, executor: Executor, tmp_path: Path) -> None:
        witness = tmp_path / "witness"
        began = time.monotonic()

        result = executor.execute(self.context(self.long(witness), tmp_path, timeout=0.7))

        assert result.failure is FailureKind.TIMEOUT
        assert "0.7 s" in result.reason
        assert time.monotonic() - began < 5
        self.assert_still(witness)

    def test_it_ends_when_asked(self, executor: Executor, tmp_path: Path) -> None:
        witness, stop, log = tmp_path / "witness", StopSignal(), Recorder()
        threading.Thread(target=lambda: (eventually(lambda: b"up" in log.data), stop.request("cancelled"))).start()

        result = executor.execute(self.context(self.long(witness), tmp_path, log=log, stop=stop))

        assert (result.failure, result.reason) == (FailureKind.STOPPED, "cancelled")
        self.assert_still(witness)

    def test_it_does_not_start_when_asked_before(self, executor: Executor, tmp_path: Path) -> None:
        witness, stop = tmp_path / "witness", StopSignal()
        stop.request("run_timeout")

        result = executor.execute(self.context(self.long(witness), tmp_path, stop=stop))

        assert (result.failure, result.reason) == (FailureKind.STOPPED, "run_timeout")
        assert not self.began(witness)

    def test_nothing_goes_on_without_its_worker(self, tmp_path: Path) -> None:
        witness = tmp_path / "witness"
        host = Host(tmp_path / "host", self.type, self.long(witness), connections=self.connections)
        eventually(lambda: b"up" in host.log())

        host.kill()

        eventually(lambda: not self.goes_on(witness), within=5)
        eventually(lambda: self.left_nothing(host), within=5)


class LongRunningContract(EndingContract):
    """For executors whose work also says something while it lasts."""

    def telling(self, parameter: str) -> Mapping[str, Any]:
        """Fields of work that says a parameter in its log, its result and its failure's reason where it can."""
        raise NotImplementedError

    def test_a_secret_is_in_no_output(self, store: LocalStore) -> None:
        secret = "s3cr3t/with+odd chars"

        outcome = self.attempt(
            store,
            self.telling("api_key"),
            parameters={"api_key": {"secret": "reports-api"}},
            secret_parameters=["api_key"],
            secrets={"reports-api": secret},
        )

        log = store.read(log_key(7, 700)).decode()
        assert "***" in log
        encoded = (
            base64.b64encode(secret.encode()).decode().rstrip("=")[:-1],
            quote(secret, safe=""),
            quote_plus(secret),
        )
        assert [form for form in (secret, *encoded) if form in log + repr(outcome)] == []

    def test_output_is_bounded(self, executor: Executor, tmp_path: Path) -> None:
        """An executor hands over pieces; it never gathers a whole output."""
        sizes: list[int] = []

        class Sizes:
            def write(self, chunk: bytes) -> None:
                sizes.append(len(chunk))

        executor.execute(self.context(self.flood(), tmp_path, log=Sizes(), timeout=1))

        assert sum(sizes) > 10_000_000
        assert max(sizes) <= 1024 * 1024

    def flood(self) -> Mapping[str, Any]:
        """Fields of work that writes without end."""
        raise NotImplementedError
