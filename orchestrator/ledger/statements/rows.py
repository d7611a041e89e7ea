"""What the hot statements return, alike for both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from orchestrator.models import Job, JobVersion
from orchestrator.states import AttemptState, TaskState


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim that won: the lease is ours under `token`. One that continues a deferred attempt has its number and id."""

    run_id: int
    task_run_id: int
    position: int
    token: int
    number: int
    attempt_id: int
    version_id: int
    fragment_id: int | None
    lock_count: int
    timeout_seconds: float
    #: Seconds between ready (or due) and this claim.
    waited_seconds: float
    #: Seconds since the attempt's first claim: 0 unless it was deferred. Its time limit counts from there.
    elapsed_seconds: float
    #: The moment of this claim on the database's clock.
    claimed_at: datetime

    @property
    def seconds_left(self) -> float:
        """Seconds from this claim to the attempt's deadline."""
        return self.timeout_seconds - self.elapsed_seconds


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, and what becomes of its task run."""

    task_state: TaskState
    attempt_state: AttemptState
    reason: str = ""
    failure_kind: str = ""
    exit_code: int | None = None
    #: JSON text of an inline result, or the reference of one in the store.
    result: str | None = None
    result_ref: str = ""
    #: Seconds until the next attempt, for `retry_waiting`, or until this one goes on, for `deferred`.
    delay_seconds: float | None = None
    #: The transaction also plans what follows.
    planned: bool = False

    @property
    def final(self) -> bool:
        """The task run ends with it."""
        return self.delay_seconds is None

    @property
    def deferred(self) -> bool:
        """The attempt stays open, without a lease."""
        return self.task_state == TaskState.DEFERRED


@dataclass(frozen=True, slots=True)
class RunRow:
    """A locked run, as far as finishing it needs."""

    id: int
    job_id: int
    version_id: int
    state: str
    stop_state: str
    stop_reason: str
    concurrency_limit: int | None
    admission_key: UUID | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A task run that becomes ready; `hinted`: a message for it is about to be published."""

    position: int
    hinted: bool = True
    fragment_id: int | None = None
    fragment_index: int | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    position: int
    state: TaskState
    reason: str


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a trigger asks for, already checked."""

    job: Job
    version: JobVersion
    trigger_key: str
    trigger: Mapping[str, Any]
    parameters: Mapping[str, Any]
    event: Mapping[str, Any] | None
    logical_date: datetime
    priority: int


#: JSON data, or its text as it is.
Json = Mapping[str, Any] | bytes


class RunRequest(NamedTuple):
    """One run that a rule or a trigger message asks for; job, version and parameters were looked up by the caller.

    `trigger`, `parameters` and `event` are JSON data, or JSON text as bytes, which several requests may share.
    """

    tenant_id: int
    job_id: int
    version_id: int
    #: At most 200 characters; the same again is the same run.
    trigger_key: str
    trigger: Json
    logical_date: datetime
    parameters: Json = b"{}"
    event: Json | None = None
    #: 0 … 3.
    priority: int = 2
    event_id: int | None = None
    #: Runs of one key start strictly in the order of their ids, `admission_limit` of them at once (None: 1).
    admission_key: UUID | None = None
    admission_limit: int | None = None
    #: A run for which its key has no room ends `cancelled (concurrency_drop)` instead of waiting.
    admission_drop: bool = False
    #: Ends `cancelled (job_paused)` where others wait for their job to be resumed.
    drop_when_paused: bool = False
    #: Still pending then, it ends `cancelled (expired)`.
    expires_at: datetime | None = None
    #: The event and run chain that it belongs to: against rules that trigger themselves.
    root_event_id: int | None = None
    depth: int = 0
    rule_chain: Sequence[str | int] = ()

    @property
    def limit(self) -> int | None:
        """Runs of its key at once; None without a key."""
        return None if self.admission_key is None else self.admission_limit or 1

    @property
    def cause(self) -> str:
        """What its first transition names as the cause."""
        if isinstance(self.trigger, bytes):
            return "event"
        return str(self.trigger.get("kind") or self.trigger.get("type") or "")[:100]

    @property
    def by(self) -> str:
        return "" if isinstance(self.trigger, bytes) else str(self.trigger.get("by", ""))[:200]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the attempts of a run share: immutable, so workers keep it."""

    tenant_id: int
    time_zone: str
    parameters: Mapping[str, Any]
    event: Mapping[str, Any] | None
    logical_date: datetime


#: Both databases give JSON as text here.
RUN_FACTS = """
select r.tenant_id, t.timezone, r.parameters, r.event, r.logical_date
  from orchestrator_jobrun r join orchestrator_tenant t on t.id = r.tenant_id
 where r.id = %(run)s"""
