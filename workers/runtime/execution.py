"""One attempt between its claim and its settlement: render, run, mask, keep. Touches no ledger.

Whatever goes wrong here is an outcome with a reason, never an exception: the caller has a lease to settle.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.errors import NotFound, UpbeatError
from orchestrator.store import KeptResult, ResultRefused, Store, StoreError, keep_result, log_key
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind, StopSignal
from workers.executors.registry import Adapter, UnknownTaskType, adapter_for
from workers.runtime.output import LOG_BYTES, AttemptLog, Mask
from workers.runtime.parameters import CannotRender, Inputs, render_inputs, secrets_needed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revealed:
    """A stored connection as it is: its URL, and what of it must never be seen."""

    url: str
    secrets: tuple[str, ...]


def _no_connections(name: str) -> Revealed:
    raise NotFound(f"There is no connection {name!r}.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, ready for the ledger: secrets masked, the reason one line, the result kept.

    The result stands in `kept` alone, inline or by reference; `result.result` is empty.
    """

    result: ExecutionResult
    kept: KeptResult = field(default_factory=KeptResult)
    #: Bytes of the log that the store refused, and its words; the attempt is none the worse for it.
    log_bytes_lost: int = 0
    log_problem: str = ""


def execute_attempt(
    inputs: Inputs,
    *,
    reveal: Callable[[list[str]], Mapping[str, str]],
    store: Store,
    stop: StopSignal,
    connection: Callable[[str], Revealed] = _no_connections,
    log_bytes: int = LOG_BYTES,
    scratch: Path | None = None,
) -> Outcome:
    """Run an attempt to its end and return its outcome; nothing of it is left on this host.

    `reveal` maps names of stored secrets to their values and is called at most once, with those that the task names.
    `connection` maps the name of a stored connection to what it is; the executor asks for it, and it is masked at once.
    Directories of attempts are made below `scratch`, default the system's.
    """
    try:
        adapter = adapter_for(inputs.task_type)
        needed = secrets_needed(inputs, adapter.type.fixed_text)
    except (UnknownTaskType, CannotRender) as problem:
        return Outcome(_failed(FailureKind.PERMANENT, problem))
    try:
        values = reveal(sorted(set(needed.values()))) if needed else {}
    except Exception as problem:
        # Nothing has started yet, so another try is safe whatever it was.
        log.exception("secrets not revealed", extra={"attempt": inputs.attempt_id})
        reason = f"the secrets could not be read: {type(problem).__name__}"
        return Outcome(ExecutionResult.failed(FailureKind.RETRYABLE, reason))
    secrets = {parameter: values[name] for parameter, name in needed.items() if name in values}
    mask = Mask(secrets.values())
    sink = AttemptLog(store, log_key(inputs.run_id, inputs.attempt_id), mask=mask, cap=log_bytes)
    try:
        result = mask.result(_run(adapter, inputs, secrets, mask, connection, store, stop, sink, scratch))
    finally:
        sink.close()
    if sink.lost:
        # A store that is full takes no word about that either.
        facts = {"attempt": inputs.attempt_id, "problem": sink.problem}
        log.warning("%d bytes of an attempt's log could not be kept", sink.lost, extra=facts)
    outcome = _kept(result, inputs.run_id, store)
    return replace(outcome, log_bytes_lost=sink.lost, log_problem=sink.problem)


def _run(
    adapter: Adapter,
    inputs: Inputs,
    secrets: Mapping[str, str],
    mask: Mask,
    connection: Callable[[str], Revealed],
    store: Store,
    stop: StopSignal,
    sink: AttemptLog,
    scratch: Path | None,
) -> ExecutionResult:
    def reveal(name: str) -> str:
        revealed = connection(name)
        mask.add(revealed.secrets)
        return revealed.url

    try:
        with _workdir(adapter, inputs, scratch) as workdir:
            rendered = render_inputs(
                inputs,
                secrets=secrets,
                store=store,
                workdir=workdir if adapter.needs_workdir else None,
                fixed_text=adapter.type.fixed_text,
            )
            context = ExecutionContext(
                run_id=inputs.run_id,
                task_run_id=inputs.task_run_id,
                attempt_id=inputs.attempt_id,
                attempt_number=inputs.attempt_number,
                job_name=inputs.job_name,
                task_name=inputs.task_name,
                config=rendered.config,
                timeout=inputs.timeout,
                resources=inputs.resources,
                workdir=workdir,
                log=sink,
                stop=stop,
                environment=rendered.environment,
                allowed_networks=inputs.allowed_networks,
                redact=mask.text,
                connection=reveal,
                elapsed=inputs.elapsed,
                claimed_at=inputs.claimed_at,
            )
            return adapter.executor.execute(context)
    except CannotRender as problem:
        return _failed(FailureKind.PERMANENT, problem)
    except StoreError as problem:
        return _failed(FailureKind.RETRYABLE, problem)
    except OSError as problem:
        return ExecutionResult.failed(FailureKind.RETRYABLE, f"the worker could not run it: {problem}")
    except Exception as problem:
        # An executor that raises has a defect, and nobody knows how far it came.
        log.exception("executor failed", extra={"task_type": inputs.task_type, "attempt": inputs.attempt_id})
        return ExecutionResult.failed(FailureKind.UNKNOWN, f"defect in the executor: {type(problem).__name__}")


@contextmanager
def _workdir(adapter: Adapter, inputs: Inputs, scratch: Path | None) -> Iterator[Path]:
    if not adapter.needs_workdir:
        yield Path(os.devnull)
        return
    prefix = f"upbeat-{inputs.run_id}-{inputs.attempt_id}-"
    # Mode 0700. What the command made unreadable on purpose is not worth failing for.
    with tempfile.TemporaryDirectory(prefix=prefix, dir=scratch, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def _kept(result: ExecutionResult, run_id: int, store: Store) -> Outcome:
    if result.result is None:
        return Outcome(result)
    try:
        kept = keep_result(store, run_id, result.result)
    except ResultRefused as problem:
        return Outcome(_failed(FailureKind.PERMANENT, problem, exit_code=result.exit_code))
    except StoreError as problem:
        return Outcome(_failed(FailureKind.RETRYABLE, problem, exit_code=result.exit_code))
    return Outcome(replace(result, result=None), kept)


def _failed(kind: FailureKind, problem: UpbeatError, *, exit_code: int | None = None) -> ExecutionResult:
    return ExecutionResult.failed(kind, problem.message, exit_code=exit_code)
