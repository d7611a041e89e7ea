"""What a worker may say about an attempt: claim it, renew its lease, settle it, and what it needs to run it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from orchestrator import metrics
from orchestrator.canvas import binding
from orchestrator.dag.spec import TaskSpec
from orchestrator.expressions.placeholders import references
from orchestrator.ledger import claims
from orchestrator.ledger.claims import NotClaimed
from orchestrator.ledger.statements.rows import Claimed, Ending, RunFacts
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.planning.retry import GiveUp, after_failure
from orchestrator.registry import task_types
from orchestrator.states import AttemptState, TaskState


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended, in the words of `FailureKind`: "" is success, or a deferral if `defer_seconds` is given."""

    failure: str = ""
    reason: str = ""
    exit_code: int | None = None
    #: JSON text of an inline result, or a reference into the store.
    result: str | None = None
    result_ref: str = ""
    #: Seconds that the other side asked to be left alone; the next attempt waits at least as long.
    retry_after: float | None = None
    #: The attempt goes on after so many seconds, on any worker; until then it needs none.
    defer_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the attempts of a job share."""

    name: str
    secret_parameters: tuple[str, ...]


def claim_task_run(task_run_id: int, *, worker: str) -> Claimed | NotClaimed:
    """Claim a task run for one attempt, or say why there is nothing to do. Two claims never both succeed."""
    claimed = claims.claim(task_run_id=task_run_id, worker=worker)
    if isinstance(claimed, NotClaimed):
        metrics.CLAIMS.labels(claimed.value).inc()
        return claimed
    metrics.CLAIMS.labels("won").inc()
    metrics.QUEUE_WAIT.labels(task_of(claimed).pool).observe(max(0.0, claimed.waited_seconds))
    return claimed


def recover_claim(task_run_id: int, *, worker: str) -> Claimed | None:
    """Return the claim that this very worker made when its connection died in COMMIT, or None."""
    return claims.recover(task_run_id=task_run_id, worker=worker)


def renew_leases(leases: Mapping[int, int]) -> dict[int, str | None]:
    """Renew leases, task run id → token; returns those still held, each with the reason of a requested stop or None."""
    return claims.renew(leases)


def task_of(claimed: Claimed) -> TaskSpec:
    """Return the spec of the claimed task, from this process's cache of versions."""
    return compiled_version(claimed.version_id).tasks[claimed.position]


def job_of(claimed: Claimed) -> JobFacts:
    """Return what an attempt needs of its job, from this process's cache of versions."""
    version = compiled_version(claimed.version_id)
    return JobFacts(version.job_name, version.secret_parameters)


@lru_cache(maxsize=512)
def run_facts(run_id: int) -> RunFacts:
    """Return what a run's attempts share, with one query and from a bounded cache."""
    return claims.run_facts(run_id)


def upstream_results(claimed: Claimed) -> dict[str, tuple[Any, str]]:
    """Return the results that the claimed task reads, task → (inline value, reference into the store)."""
    version = compiled_version(claimed.version_id)
    names = _results_read(claimed.version_id, claimed.position)
    if not names:
        return {}
    positions = [version.positions[name] for name in names if name in version.positions]
    rows = TaskRun.objects.filter(run_id=claimed.run_id, position__in=positions, state=TaskState.SUCCEEDED)
    return {
        version.tasks[position].name: (result, ref)
        for position, result, ref in rows.values_list("position", "result", "result_ref")
        if result is not None or ref
    }


@lru_cache(maxsize=65536)
def _results_read(version_id: int, position: int) -> tuple[str, ...]:
    """Tasks whose results a task may read: those its fields name, and its direct upstreams (large ones come as files)."""
    version = compiled_version(version_id)
    task = version.tasks[position]
    type_ = task_types.get(task.type)
    fixed = type_.fixed_text if type_ else ()
    fields = {name: value for name, value in task.config.items() if name not in fixed}
    if not task.config:
        return ()
    named = {name.split(".")[1] for name in references(fields) if name.startswith("results.")}
    named.update(version.graph.names[edge.upstream] for edge in version.graph.dependencies[position])
    return tuple(sorted(named))


def settle_attempt(claimed: Claimed, end: AttemptEnd, *, worker: str, follows: int | None = None) -> bool:
    """Write the outcome, plan what follows, publish. Returns whether the task run is final.

    Raises StaleToken if the lease moved on; the caller stops without reporting. Safe to call twice.
    """
    ending = ending_of(claimed, task_of(claimed), end, jitter=random.random())
    try:
        settled = claims.settle(claimed, ending, worker=worker, follows=follows)
    except claims.StopRequested as stop:
        if ending.deferred:
            ending = Ending(stop.state, AttemptState(stop.state), stop.reason, "stopped")
        else:
            ending = Ending(stop.state, ending.attempt_state, stop.reason, ending.failure_kind, ending.exit_code)
        settled = claims.settle(claimed, ending, worker=worker, follows=follows)
    binding.publish(settled.hints)
    metrics.SETTLES.labels(ending.task_state.value).inc()
    return settled.final


def ending_of(claimed: Claimed, task: TaskSpec, end: AttemptEnd, *, jitter: float) -> Ending:
    """Decide what an attempt's end makes of its task run."""
    if end.defer_seconds is not None:
        return Ending(TaskState.DEFERRED, AttemptState.RUNNING, end.reason, delay_seconds=end.defer_seconds)
    if not end.failure:
        return Ending(
            TaskState.SUCCEEDED, AttemptState.SUCCEEDED, end.reason, "", end.exit_code, end.result, end.result_ref
        )
    if end.failure == "stopped":
        return _stopped(claimed, end)
    attempt_state = AttemptState.TIMED_OUT if end.failure == "timeout" else AttemptState.FAILED
    final_state = TaskState.TIMED_OUT if end.failure == "timeout" else TaskState.FAILED
    decision = after_failure(
        task.retry,
        kind=end.failure,
        exit_code=end.exit_code,
        idempotent=task.idempotent,
        attempts=claimed.number,
        jitter=jitter,
        asked=end.retry_after,
    )
    if isinstance(decision, GiveUp):
        reason = f"{end.reason} ({decision.reason})" if decision.reason else end.reason
        return Ending(final_state, attempt_state, reason, end.failure, end.exit_code)
    return Ending(
        TaskState.RETRY_WAITING, attempt_state, end.reason, end.failure, end.exit_code, delay_seconds=decision.seconds
    )


def _stopped(claimed: Claimed, end: AttemptEnd) -> Ending:
    """A stop was obeyed: the task ends as the run's stop says, cancelled or timed_out."""
    stop_state = JobRun.objects.values_list("stop_state", flat=True).get(pk=claimed.run_id)
    if not stop_state:
        # It ended itself because its lease could not be kept: nobody saw how far it came.
        return Ending(TaskState.FAILED, AttemptState.FAILED, f"lost: {end.reason}", "unknown", end.exit_code)
    return Ending(TaskState(stop_state), AttemptState(stop_state), end.reason, "stopped", end.exit_code)
