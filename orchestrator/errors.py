"""Every error that Upbeat raises on purpose: one root, a stable code, facts as attributes.

UpbeatError
├── InvalidDefinition, InvalidParameters      what was given is wrong; `details` says where
├── NotFound: UnknownJob, UnknownRun, UnknownVersion, UnknownTaskRun
├── Refused: JobArchived, JobManaged, RunFinal, RunOpen, TaskIsRunning, TaskFinal, IdempotencyMismatch, OutOfScope …
├── Unauthenticated, TooManyCalls             who calls is not known, or calls too often
├── IllegalTransition                         an arrow that the state table does not have
├── StaleToken                                control flow: the lease moved on, write nothing
└── Misconfigured                             a setting is wrong; the process must not start
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Detail:
    """One problem in what was given: where, the value found, what was expected."""

    path: str
    value: Any
    expected: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class UpbeatError(Exception):
    """Something was refused."""

    code: ClassVar[str] = "error"
    #: The HTTP status of the API's answer.
    status: ClassVar[int] = 400

    def __init__(self, message: str | None = None, *, details: tuple[Detail, ...] = ()) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.details = details
        super().__init__(self.message)


class InvalidDefinition(UpbeatError):
    """The definition has problems."""

    code = "invalid_definition"


class InvalidParameters(UpbeatError):
    """The parameters do not fit the job."""

    code = "invalid_parameters"


class InvalidRequest(UpbeatError):
    """The request is not understood."""

    code = "invalid_request"


class NotFound(UpbeatError):
    """There is no such object."""

    code = "not_found"
    status = 404


class UnknownJob(NotFound):
    """There is no such job."""

    code = "unknown_job"


class UnknownVersion(NotFound):
    """The job has no such version."""

    code = "unknown_version"


class UnknownRun(NotFound):
    """There is no such run."""

    code = "unknown_run"


class UnknownTaskRun(NotFound):
    """There is no such task run."""

    code = "unknown_task_run"


class Refused(UpbeatError):
    """The state of the object does not allow this."""

    code = "refused"
    status = 409


class JobArchived(Refused):
    """The job is archived; it starts no more runs."""

    code = "job_archived"


class JobManaged(Refused):
    """The job belongs to something else, through which it is changed."""

    code = "job_managed"


class RunFinal(Refused):
    """The run has already ended."""

    code = "run_final"


class RunOpen(Refused):
    """The run has not ended yet."""

    code = "run_open"


class RunNotRunning(Refused):
    """The run does not run: none of its tasks can be steered."""

    code = "run_not_running"


class TaskIsRunning(Refused):
    """The task runs: only its run can be cancelled."""

    code = "task_running"


class TaskFinal(Refused):
    """The task has already ended: a re-run can mark it."""

    code = "task_final"


class NothingToRerun(Refused):
    """No task of the run would run again."""

    code = "nothing_to_rerun"


class AlreadyRerun(Refused):
    """The run has been run again before."""

    code = "already_rerun"


class IdempotencyMismatch(Refused):
    """The idempotency key was used with another job or other parameters."""

    code = "idempotency_mismatch"
    status = 422


class OutOfScope(Refused):
    """The token does not allow this."""

    code = "out_of_scope"
    status = 403


class Unauthenticated(UpbeatError):
    """No valid token: send `Authorization: Bearer <token>`."""

    code = "unauthenticated"
    status = 401


class TooManyCalls(UpbeatError):
    """The token made too many calls this minute."""

    code = "too_many_calls"
    status = 429

    def __init__(self, *, limit: int, retry_after_seconds: int) -> None:
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"More than {limit} calls in this minute; try again in {retry_after_seconds} s.")


class IllegalTransition(UpbeatError):
    """The state table has no such arrow."""

    code = "illegal_transition"
    status = 409


class StaleToken(UpbeatError):
    """The lease moved on: another attempt owns this task run. Control flow; the caller stops without reporting."""

    code = "stale_token"
    status = 409


class Misconfigured(UpbeatError):
    """A setting is wrong."""

    code = "misconfigured"
    status = 503
