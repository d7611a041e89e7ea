"""Start many runs in one transaction of the caller's: what rules and trigger messages are made into."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from django.db import connection

from orchestrator.conf import options
from orchestrator.dag.parameters import ParameterContext, resolve_parameters
from orchestrator.dag.spec import JobSpec, ParameterSpec
from orchestrator.errors import InvalidParameters
from orchestrator.ledger.batches import StartedId, insert_runs
from orchestrator.ledger.statements.rows import RunRequest
from orchestrator.models import JobVersion, Tenant

__all__ = ["RunRequest", "StartedId", "Target", "job_targets", "resolve_for", "start_runs"]

#: What starting needs of a version, kept by its id: versions do not change.
KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """A job as far as starting its runs needs it."""

    job_id: int
    name: str
    version_id: int
    #: 0 … 3, of the latest version.
    priority: int
    parameters: tuple[ParameterSpec, ...]
    archived: bool
    paused: bool
    #: `rule:<slug>` of a hidden job, else empty.
    managed_by: str = ""


TARGETS: Final = """
select id, name, latest_version_id, archived_at, paused_at, managed_by from orchestrator_job
 where tenant_id = %s and latest_version_id is not null and name in ({marks})"""


def start_runs(requests: Sequence[RunRequest]) -> list[StartedId]:
    """Insert pending runs, one result for each request in its order; their ids ascend in that order.

    Call it inside a transaction. Nothing is admitted or published: hand the ids to `launch_runs` after the commit, or
    leave them to the reconciler. The same (tenant, trigger key) is the same run, however often it is called. A job
    that is gone or archived is told in its result. Database errors (a value that the database refuses) are the
    caller's: the whole batch is rolled back with its transaction.
    """
    return insert_runs(requests)


def job_targets(tenant_id: int, names: Collection[str]) -> dict[str, Target]:
    """Return jobs of a tenant by name, archived ones too; a name without a job, or without a version, is left out.

    One query, and one more for versions that this process has not seen yet.
    """
    if not names:
        return {}
    # Asked for each batch of events: compiling it through the ORM took as long as everything else about its jobs.
    with connection.cursor() as cursor:
        wanted = sorted(names)
        cursor.execute(TARGETS.format(marks=", ".join(["%s"] * len(wanted))), [tenant_id, *wanted])
        rows = cursor.fetchall()
    startable = _startable([version_id for _, _, version_id, *_ in rows])
    return {
        name: Target(
            job_id=job_id,
            name=name,
            version_id=version_id,
            priority=startable[version_id][0],
            parameters=startable[version_id][1],
            archived=archived_at is not None,
            paused=paused_at is not None,
            managed_by=managed_by,
        )
        for job_id, name, version_id, archived_at, paused_at, managed_by in rows
    }


def resolve_for(target: Target, tenant: Tenant, given: Mapping[str, Any], logical_date: datetime) -> Mapping[str, Any]:
    """Return the parameters of a run: the given ones over the job's, the tenant's and the environment's.

    Raises InvalidParameters, with a detail for each problem.
    """
    return resolve(target.parameters, tenant, given, logical_date)


def resolve(
    parameters: Sequence[ParameterSpec], tenant: Tenant, given: Mapping[str, Any], logical_date: datetime
) -> Mapping[str, Any]:
    """Return the parameters of a run of a version that declares `parameters`. Raises InvalidParameters."""
    if not parameters and not given:
        return {}
    resolved = resolve_parameters(
        parameters,
        trigger=given,
        tenant=tenant.parameters,
        environment=os.environ,
        context=ParameterContext(
            execution_date=logical_date.astimezone(ZoneInfo(tenant.timezone)).date(),
            env=options().env,
            logical_date=logical_date.isoformat(),
        ),
    )
    if resolved.problems:
        raise InvalidParameters("The parameters do not fit the job.", details=resolved.problems)
    return resolved.values


_cache: dict[int, tuple[int, tuple[ParameterSpec, ...]]] = {}


def _startable(version_ids: Collection[int]) -> Mapping[int, tuple[int, tuple[ParameterSpec, ...]]]:
    """Return priority and parameters of versions; the specs of large ones are read once and not kept."""
    missing = {id for id in version_ids if id not in _cache}
    found = {id: _cache[id] for id in version_ids if id not in missing}
    if missing:
        for id, canonical in JobVersion.objects.filter(pk__in=missing).values_list("pk", "spec"):
            spec = JobSpec.from_canonical({**canonical, "tasks": ()})
            found[id] = (int(spec.priority[1]), spec.parameters)
        if len(_cache) + len(missing) > KEPT:
            _cache.clear()
        _cache.update({id: found[id] for id in missing})
    return found
