"""Trigger calls that come as messages: the checks of `POST /v1/jobs/trigger`, under the tenant of their source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from orchestrator.errors import UpbeatError
from orchestrator.models import Tenant
from orchestrator.services.batches import RunRequest, job_targets, resolve_for, start_runs
from triggers.envelope import Problem
from triggers.ingest.batch import Item, SourceView

LONGEST_REASON = 32


def start_calls(source: SourceView, items: Sequence[Item], now: datetime) -> Iterator[tuple[Item, int | Problem]]:
    """Start the runs that new calls ask for, inside the caller's transaction: the run's id, or why there is none.

    The code of a refusal is the one that the API would have answered.
    """
    tenant = Tenant.objects.get(pk=source.tenant_id)
    targets = job_targets(source.tenant_id, {item.call["jobName"] for item in items if item.call is not None})
    requests: list[tuple[Item, RunRequest]] = []
    for item in items:
        assert item.call is not None
        name = item.call["jobName"]
        target = targets.get(name)
        if target is None:
            yield item, Problem("refused:unknown_job", f"There is no job {name!r}.")
            continue
        if target.archived:
            yield item, Problem("refused:job_archived", f"The job {name!r} is archived; it starts no more runs.")
            continue
        try:
            parameters = resolve_for(target, tenant, item.call["parameters"], now)
        except UpbeatError as error:
            yield item, _refusal(error)
            continue
        envelope = item.envelope
        assert envelope is not None
        requests.append(
            (
                item,
                RunRequest(
                    tenant_id=source.tenant_id,
                    job_id=target.job_id,
                    version_id=target.version_id,
                    trigger_key=f"message:{item.event_id}",
                    trigger={
                        "type": "message",
                        "source": source.slug,
                        "message_id": envelope.message_id,
                        "channel": item.received.channel,
                        "event_id": item.event_id,
                    },
                    logical_date=now,
                    parameters=parameters,
                    priority=target.priority,
                    event_id=item.event_id,
                    root_event_id=item.event_id,
                    depth=1,
                ),
            )
        )
    for (item, request), started in zip(requests, start_runs([request for _, request in requests]), strict=True):
        if started.run_id is None:
            gone = "job_archived" if started.reason == "job_archived" else "unknown_job"
            yield item, Problem(f"refused:{gone}", f"The job of run {request.trigger_key!r} is gone.")
        else:
            yield item, started.run_id


def _refusal(error: UpbeatError) -> Problem:
    details = "; ".join(f"{detail.path}: expected {detail.expected}" for detail in getattr(error, "details", ()))
    return Problem(f"refused:{error.code}"[:LONGEST_REASON], f"{error} {details}".strip())
