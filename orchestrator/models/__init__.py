"""The tables, by subject. What moves the state of a run is in `ledger` alone."""

from __future__ import annotations

from orchestrator.models.jobs import Dependency, Job, JobVersion, Task
from orchestrator.models.leases import Lease
from orchestrator.models.locks import Lock, LockRequest
from orchestrator.models.runs import Attempt, Fragment, JobRun, TaskRun
from orchestrator.models.secrets import Secret
from orchestrator.models.tenants import Tenant
from orchestrator.models.tokens import ApiToken, IdempotencyKey, RateWindow
from orchestrator.models.transitions import Transition

__all__ = [
    "ApiToken",
    "Attempt",
    "Dependency",
    "Fragment",
    "IdempotencyKey",
    "Job",
    "JobRun",
    "JobVersion",
    "Lease",
    "Lock",
    "LockRequest",
    "RateWindow",
    "Secret",
    "Task",
    "TaskRun",
    "Tenant",
    "Transition",
]
