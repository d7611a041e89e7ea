"""One command for many runs: cancel or run again what a filter chooses, a bounded number at a time.

Each run is a command of its own, recorded as such, and one that is refused stops no other. Repeating a call does what is
left: a run that was cancelled or run again is not chosen a second time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from django.db.models import Exists, OuterRef, QuerySet

from orchestrator.errors import Detail, InvalidRequest, JobArchived, UpbeatError
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import JobRun
from orchestrator.selectors.runs import RunFilter, chosen_runs
from orchestrator.services.runs import cancel_run
from orchestrator.services.steering import Start, check_rerun, rerun
from orchestrator.states import RUN_FINAL, RUN_OPEN, RunState

#: Runs of one call.
MOST: Final = 500
#: Runs that are counted at most; beyond, a count says "at least".
COUNTED: Final = 10_000
#: After so long a call answers with what is left: a caller repeats it, nobody waits for a minute.
SECONDS: Final = 5.0
#: What a bulk re-run chooses if its filter names no state: a run that was cancelled was meant to end.
RERUN_STATES: Final = (RunState.FAILED.value, RunState.TIMED_OUT.value)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run, or would become of it."""

    run: JobRun
    outcome: Literal["cancelled", "stopping", "rerun", "refused", "would_cancel", "would_rerun"]
    code: str = ""
    message: str = ""
    new_run: JobRun | None = None


@dataclass(frozen=True, slots=True)
class Bulk:
    """What a call did. `matched` counts before it, by state; beyond 10,000 it is a least number."""

    matched: Mapping[str, int]
    is_capped: bool
    outcomes: tuple[Outcome, ...]
    remaining: int
    #: Where a call that is to step over what was refused goes on; None: nothing is left.
    next: int | None = None


def cancel_runs(
    tenant_id: int,
    chosen: RunFilter,
    *,
    job_names: Collection[str] = (),
    by: str,
    reason: str = "",
    dry_run: bool = False,
    limit: int = 100,
) -> Bulk:
    """Cancel the open runs that a filter chooses, pending ones first, so that none starts in the place of another.

    Runs that were asked to stop before are left out. Raises InvalidRequest for an empty filter.
    """
    _refuse_empty(chosen)
    runs = chosen_runs(tenant_id, chosen, job_names=job_names).filter(
        state__in=RUN_OPEN, stop_requested_at__isnull=True
    )

    def cancel(run: JobRun) -> Outcome:
        if dry_run:
            return Outcome(run, "would_cancel")
        ended = cancel_run(run.pk, by=by, reason=reason)
        return Outcome(ended, "cancelled" if ended.state in RUN_FINAL else "stopping")

    # "pending" comes before "running".
    return _each(runs, runs.order_by("state", "-pk"), cancel, limit)


def rerun_runs(
    tenant_id: int,
    chosen: RunFilter,
    *,
    job_names: Collection[str] = (),
    start: Start = "failed",
    mark: Mapping[str, str] | None = None,
    by: str,
    reason: str = "",
    dry_run: bool = False,
    again: bool = False,
    after: int = 0,
    limit: int = 100,
) -> Bulk:
    """Run the ended runs that a filter chooses again, oldest first; without a state, those failed and timed out.

    Runs that have a re-run already are left out, unless `again`. `after` steps over what was handled or refused
    before. Raises InvalidRequest for an empty filter.
    """
    _refuse_empty(chosen)
    runs = chosen_runs(tenant_id, replace(chosen, states=chosen.states or RERUN_STATES), job_names=job_names)
    runs = runs.filter(state__in=RUN_FINAL, pk__gt=after)
    if not again:
        runs = runs.filter(~Exists(JobRun.objects.filter(rerun_of=OuterRef("pk"))))
    trigger = {"from": start, "mark": mark or {}}

    def run_again(run: JobRun) -> Outcome:
        if dry_run:
            if run.job.archived_at is not None:
                raise JobArchived(f"The job {run.job.name!r} is archived; it starts no more runs.")
            check_rerun(run, trigger, compiled_version(run.version_id))
            return Outcome(run, "would_rerun")
        made = rerun(run.pk, start=start, mark=mark, by=by, reason=reason, once=not again)
        return Outcome(run, "rerun", new_run=made)

    return _each(runs, runs.order_by("pk"), run_again, limit, by_id=True)


def _each(
    runs: QuerySet[JobRun, Any],
    ordered: QuerySet[JobRun, JobRun],
    command: Callable[[JobRun], Outcome],
    limit: int,
    *,
    by_id: bool = False,
) -> Bulk:
    states = list(runs.values_list("state", flat=True).order_by()[: COUNTED + 1])
    rows = ordered.select_related("job", "version").defer("version__spec", "version__source", "event")[:limit]
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for run in list(rows):
        try:
            outcomes.append(command(run))
        except UpbeatError as error:
            outcomes.append(Outcome(run, "refused", error.code, error.message))
        if time.monotonic() - began > SECONDS:
            break
    remaining = max(0, len(states) - len(outcomes))
    return Bulk(
        matched=Counter(states),
        is_capped=len(states) > COUNTED,
        outcomes=tuple(outcomes),
        remaining=remaining,
        next=outcomes[-1].run.pk if by_id and outcomes and remaining else None,
    )


def _refuse_empty(chosen: RunFilter) -> None:
    if chosen == RunFilter():
        raise InvalidRequest(
            "A command on many runs needs a filter.",
            details=(Detail("filter", {}, "at least one of job, tag, state, trigger, created_from, created_to"),),
        )
