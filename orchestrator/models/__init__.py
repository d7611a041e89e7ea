"""The tables, by subject. What moves the state of a run is in `ledger` alone."""

from __future__ import annotations

from orchestrator.models.audit import AuditRecord
from orchestrator.models.jobs import Dependency, Job, JobVersion, Task, VersionLayout
from orchestrator.models.lanes import LaneWorker
from orchestrator.models.leases import Lease
from orchestrator.models.locks import Lock, LockRequest
from orchestrator.models.roles import RoleGrant
from orchestrator.models.runs import Attempt, Fragment, JobRun, TaskRun
from orchestrator.models.secrets import Connection, Secret
from orchestrator.models.templates import Template
from orchestrator.models.tenants import Tenant
from orchestrator.models.tokens import ApiToken, IdempotencyKey, RateWindow
from orchestrator.models.transitions import Transition

__all__ = [
    "ApiToken",
    "Attempt",
    "AuditRecord",
    "Connection",
    "Dependency",
    "Fragment",
    "IdempotencyKey",
    "Job",
    "JobRun",
    "JobVersion",
    "LaneWorker",
    "Lease",
    "Lock",
    "LockRequest",
    "RateWindow",
    "RoleGrant",
    "Secret",
    "Task",
    "TaskRun",
    "Template",
    "Tenant",
    "Transition",
    "VersionLayout",
]
