"""The life of one attempt: claim → keep the lease → execute → settle."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from django.db import Error, close_old_connections
from django.db.utils import InterfaceError, OperationalError

from orchestrator import logs, metrics
from orchestrator.conf import options
from orchestrator.errors import Misconfigured, StaleToken
from orchestrator.services import attempts, connections, secrets, tenants
from orchestrator.services.attempts import AttemptEnd, Claimed, NotClaimed
from orchestrator.store import KeptResult, store_of_process
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.registry import uses_network
from workers.runtime.execution import Outcome, Revealed, execute_attempt
from workers.runtime.heartbeat import keeper
from workers.runtime.parameters import Inputs

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

#: How long a claim waits for a database that is away before it gives the message up: the reconciler knows of it.
CLAIM_PATIENCE_SECONDS = 120.0


class Ended(Enum):
    """What the message is worth to its chain or chord."""

    FINAL = "final"  # the task run is final: the canvas goes on
    OPEN = "open"  # it will run again, or somebody else runs it: the canvas waits


def run_attempt(task_run_id: int, *, worker: str, follows: int | None = None) -> Ended:
    """Run one attempt of a task run, if it can be claimed. Safe to call twice: the second finds nothing to do.

    `follows` is the task run of the next link when the message is part of a chain.
    """
    claimed = _claim(task_run_id, worker)
    if isinstance(claimed, NotClaimed):
        return Ended.FINAL if claimed is NotClaimed.OVER else Ended.OPEN
    stop = StopSignal()
    keeper.hold(claimed, stop)
    task = attempts.task_of(claimed)
    context = {
        "job": attempts.job_of(claimed).name,
        "run": claimed.run_id,
        "task": task.name,
        "attempt": claimed.number,
    }
    try:
        with logs.bound(**context):
            started = time.monotonic()
            outcome = _execute(claimed, stop)
            metrics.TASK_RUN.labels(task.type).observe(time.monotonic() - started)
            try:
                final = _insist(
                    lambda: attempts.settle_attempt(claimed, end_of(outcome), worker=worker, follows=follows)
                )
            except StaleToken:
                metrics.LEASE_LOSSES.inc()
                logger.warning("outcome not written: the lease moved on", extra={"outcome": outcome.result.reason})
                return Ended.OPEN
    finally:
        keeper.drop(claimed)
    return Ended.FINAL if final else Ended.OPEN


def _execute(claimed: Claimed, stop: StopSignal) -> Outcome:
    try:
        inputs = _insist(lambda: _inputs(claimed))
        kept_in = store_of_process()
    except Misconfigured as error:
        # UPBEAT_STORE_URL names no store: nothing was executed, and who corrects it wants to read what is wrong.
        return Outcome(ExecutionResult.failed(FailureKind.RETRYABLE, error.message))
    except Exception as error:
        # A defect of ours. Nothing was executed, so the attempt failed, and is not left to be called lost.
        logger.exception("attempt could not be prepared")
        reason = f"the attempt could not be prepared: {type(error).__name__}"
        return Outcome(ExecutionResult.failed(FailureKind.RETRYABLE, reason))
    return execute_attempt(
        inputs,
        reveal=lambda names: _insist(lambda: _reveal(claimed, names)),
        connection=lambda name: _insist(lambda: _connection(claimed, name)),
        store=kept_in,
        stop=stop,
        log_bytes=options().log_bytes,
    )


def end_of(outcome: Outcome) -> AttemptEnd:
    """Translate an outcome into the ledger's words."""
    result = outcome.result
    return AttemptEnd(
        failure=result.failure.value if result.failure else "",
        reason=result.reason,
        exit_code=result.exit_code,
        result=None if outcome.kept.inline is None else json.dumps(outcome.kept.inline),
        result_ref=outcome.kept.ref,
        retry_after=result.retry_after,
        defer_seconds=result.defer_seconds,
    )


def _claim(task_run_id: int, worker: str) -> Claimed | NotClaimed:
    """Claim, waiting for a database that is away: taking messages off the queue would only lose them."""
    give_up = time.monotonic() + CLAIM_PATIENCE_SECONDS
    doubtful = False
    pause = 0.1
    while True:
        try:
            if doubtful and not keeper.holds(task_run_id):
                # The connection may have died in the claim's COMMIT; a claim that nobody knows of would end as lost.
                recovered = attempts.recover_claim(task_run_id, worker=worker)
                if recovered is not None:
                    return recovered
            return attempts.claim_task_run(task_run_id, worker=worker)
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > give_up:
                logger.warning("message given up: no database", extra={"error": str(error).splitlines()[0]})
                return NotClaimed.NOT_NOW
            doubtful = True
            pause = _wait_for_database(pause)


def _insist(ask: Callable[[], Value]) -> Value:
    """Repeat a question to the database until it answers: the attempt has its claim, and its token decides in the end."""
    pause = 0.1
    while True:
        try:
            return ask()
        except (OperationalError, InterfaceError) as error:
            logger.warning("database away during an attempt", extra={"error": str(error).splitlines()[0]})
            pause = _wait_for_database(pause)


def _wait_for_database(pause: float) -> float:
    time.sleep(pause)
    try:
        close_old_connections()
    except Error:
        logger.debug("closing a dead connection failed")
    return min(pause * 2, 2.0)


def _inputs(claimed: Claimed) -> Inputs:
    task = attempts.task_of(claimed)
    job = attempts.job_of(claimed)
    facts = attempts.run_facts(claimed.run_id)
    return Inputs(
        run_id=claimed.run_id,
        task_run_id=claimed.task_run_id,
        attempt_id=claimed.attempt_id,
        attempt_number=claimed.number,
        job_name=job.name,
        task_name=task.name,
        task_type=task.type,
        config=task.config,
        # None is left to one that was claimed in its last moment.
        timeout=max(0.001, claimed.seconds_left),
        elapsed=claimed.elapsed_seconds,
        claimed_at=claimed.claimed_at,
        logical_date=facts.logical_date,
        resources=task.resources,
        parameters=facts.parameters,
        secret_parameters=job.secret_parameters,
        event=facts.event,
        results={name: KeptResult(inline, ref) for name, (inline, ref) in attempts.upstream_results(claimed).items()},
        time_zone=facts.time_zone,
        env=options().env,
        # Read afresh, for a permission that was taken back must not live on in a worker.
        allowed_networks=tenants.allowed_networks(facts.tenant_id) if uses_network(task.type) else (),
    )


def _reveal(claimed: Claimed, names: list[str]) -> dict[str, str]:
    return secrets.reveal_secrets(attempts.run_facts(claimed.run_id).tenant_id, names)


def _connection(claimed: Claimed, name: str) -> Revealed:
    url = connections.reveal_connection(attempts.run_facts(claimed.run_id).tenant_id, name)
    return Revealed(url, connections.secrets_of(url))
