"""What an executor is: one technology that runs one task type.

An executor gets a frozen context, does its work and returns a result; it never touches the ledger and never
decides to retry. Everything its technology can throw is translated here into a failure kind, the vendor's
words kept for the reader. `tests/contract/executors.py` states what every executor must do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import NotFound

#: Seconds; some databases' intervals end not far beyond. One that waits longer is deferred again.
LONGEST_DEFERRAL = 366 * 86400.0


class FailureKind(StrEnum):
    """What a failure means for another try."""

    RETRYABLE = "retryable"  # the executor saw it end; trying again may help
    PERMANENT = "permanent"  # bad config and the like: never repeated
    UNKNOWN = "unknown"  # sent, no answer: repeated only if the task is idempotent
    TIMEOUT = "timeout"  # the executor ended it at its deadline
    STOPPED = "stopped"  # ended because a stop was requested


class StopSignal:
    """Why the attempt should end, set by the heartbeat, read by the executor. Thread-safe; the first reason stays."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.reason = ""

    def request(self, reason: str) -> None:
        """Ask the attempt to stop; `reason` is the ledger's word, such as `cancelled` or `lease_lost`."""
        with self._lock:
            if self._event.is_set():
                return
            self.reason = reason
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; return whether a stop is requested."""
        return self._event.wait(seconds)

    def on_request(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when a stop is requested (at once if it already is), from any thread."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()


class LogSink(Protocol):
    """Where an attempt's output goes while it runs: bounded, masked, readable at once."""

    def write(self, chunk: bytes) -> None:
        """Append output. Never blocks on a reader, never raises for a full log: past the cap it counts and drops."""
        ...


def _no_connections(name: str) -> str:
    raise NotFound(f"There is no connection {name!r}.")


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """All that an executor may know of the attempt it runs."""

    run_id: int
    task_run_id: int
    attempt_id: int
    attempt_number: int
    job_name: str
    task_name: str
    #: The task's own fields, validated by the executor's schema, placeholders replaced, secrets filled in.
    config: Mapping[str, Any]
    #: Seconds until the deadline, counted from the start of `execute`. It counts from the attempt's first claim.
    timeout: float
    #: CPU cores, bytes of memory and class, as the definition's `resources` gives them.
    resources: Mapping[str, Any]
    #: A fresh directory of mode 0700 for this attempt alone, removed afterwards.
    workdir: Path
    log: LogSink
    stop: StopSignal
    #: Private networks that the tenant may reach, as CIDR; given to executors that ask for them in the registry.
    allowed_networks: tuple[str, ...] = ()
    #: Replaces secrets by stars. The log and the reason are masked anyway; a text that is cut must be masked before.
    redact: Callable[[str], str] = str
    #: Environment for local processes: UPBEAT_RUN_ID, UPBEAT_RESULT_<TASK> and the like.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The URL of a stored connection by its name, masked from then on. Raises an UpbeatError that says what is wrong.
    connection: Callable[[str], str] = _no_connections
    #: Seconds since the attempt's first claim, by the database's clock: more than 0 for one that was deferred.
    elapsed: float = 0.0
    #: The moment of the latest claim on the database's clock, by which waiting is judged: hosts' clocks differ.
    claimed_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How the attempt ended, as the executor saw it. `failure` is None exactly when it succeeded or was deferred."""

    failure: FailureKind | None = None
    #: One line for people, such as `exit code 3` or `killed by signal 9 (memory limit 512Mi)`.
    reason: str = ""
    exit_code: int | None = None
    #: JSON data; None is no result.
    result: Any = None
    #: Seconds that the other side asked to be left alone: the next attempt, if there is one, waits at least as long.
    retry_after: float | None = None
    #: The attempt is not over: it goes on after so many seconds.
    defer_seconds: float | None = None

    @classmethod
    def succeeded(cls, result: Any = None, *, exit_code: int | None = None) -> ExecutionResult:
        return cls(result=result, exit_code=exit_code)

    @classmethod
    def failed(cls, kind: FailureKind, reason: str, *, exit_code: int | None = None) -> ExecutionResult:
        return cls(failure=kind, reason=reason, exit_code=exit_code)

    @classmethod
    def deferred(cls, seconds: float, reason: str) -> ExecutionResult:
        """Leave the worker and go on with the same attempt after `seconds`: `execute` is called again, anywhere.

        Its locks stay, its deadline runs on, and nothing else is kept: what the next call needs to know must follow
        from the context. At most a year; raises ValueError for what is no duration.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"an attempt cannot be deferred by {seconds} s")
        return cls(reason=reason, defer_seconds=min(seconds, LONGEST_DEFERRAL))


class Executor(Protocol):
    """Runs the attempts of one task type. Stateless: one instance serves all threads of a worker."""

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        """Run the attempt to its end.

        Must end by itself at `context.timeout` (kind `timeout`) and soon after `context.stop` is requested (kind
        `stopped`), and must leave nothing running behind. Raises nothing for what its technology can do wrong.
        """
        ...
