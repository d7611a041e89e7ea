"""Makes true what hints only make fast: every step finds what a lost message, a dead worker or a passed moment left.

All steps are set-based, take at most BATCH rows, skip what another transaction holds, and end in the same idempotent
functions as the fast path. Each returns how much it healed; one that returns a full batch is run again at once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet

from orchestrator.canvas import binding
from orchestrator.conf import options
from orchestrator.ledger import admission, locks
from orchestrator.ledger.advance import advance_run, apply
from orchestrator.ledger.finish import finish_if_over, stop_run
from orchestrator.ledger.start import hints_of
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.transitions import database_now, move_tasks, record
from orchestrator.ledger.versions import compiled_version
from orchestrator.models import Attempt, Job, JobRun, Lock, LockRequest, TaskRun
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.planning.retry import GiveUp, RetryAfter, after_failure, after_loss
from orchestrator.states import TASK_OPEN, AttemptState, RunState, TaskState

logger = logging.getLogger(__name__)

BATCH = 500
#: A hint is published again after 15 s, 30 s, 60 s … at most every five minutes.
LONGEST_PAUSE = timedelta(minutes=5)
#: Final tasks that nobody planned for so long are planned here: the message that would have is lost.
UNPLANNED_AFTER = timedelta(seconds=5)
#: Pending runs without a verdict for so long: the hint to launch them is lost.
UNLAUNCHED_AFTER = timedelta(seconds=15)
#: A hint is lost for certain once its lane took one that was published so much later.
OVERTAKEN_BY = timedelta(seconds=60)
#: A granted lock that nobody claimed goes to the next.
GRANT_LIVES = timedelta(seconds=60)
#: Attempts looked at to see what a lane took lately.
LATELY = timedelta(minutes=10)

#: Task runs with a message in their lane: one that needs locks gets its own when they are granted.
PUBLISHED = Q(lock_count=0, hint_published_at__isnull=False) | Exists(
    LockRequest.objects.filter(task_run=OuterRef("pk"), granted_at__isnull=False, release_at__isnull=True)
)
READY_RUNS = Q(run__state=RunState.RUNNING, run__paused_at__isnull=True, run__stop_requested_at__isnull=True)


@dataclass(slots=True)
class Healed:
    """What one round set right, by cause, and the hints that it published."""

    by_cause: dict[str, int] = field(default_factory=dict)

    def add(self, cause: str, count: int) -> None:
        if count:
            self.by_cause[cause] = self.by_cause.get(cause, 0) + count


def timers(guard: Callable[[], bool]) -> Healed:
    """Release what is due: retries, run deadlines. Every half second."""
    healed = Healed()
    _repeat(healed, "retry_due", lambda: _due_retries(guard), counted=False)
    _repeat(healed, "run_timed_out", lambda: _run_deadlines(guard), counted=False)
    return healed


def round_of(guard: Callable[[], bool], *, may_expire: bool) -> Healed:
    """One round of healing. `may_expire`: the database has been reachable without a break for one lease.

    `guard` is asked at the start of each transaction; once it says no, nothing more is written.
    """
    healed = Healed()
    if may_expire:
        _repeat(healed, "lease_expired", lambda: _expired_leases(guard))
    _repeat(healed, "lock_released", lambda: _released_locks(guard))
    _repeat(healed, "unplanned", lambda: _unplanned(guard))
    _repeat(healed, "lost_hint", lambda: _lost_hints(guard))
    _repeat(healed, "grant_unclaimed", lambda: _unclaimed_grants(guard))
    _repeat(healed, "lock_free", lambda: _free_locks(guard))
    _repeat(healed, "queue_timeout", lambda: _queue_timeouts(guard), counted=False)
    _repeat(healed, "unlaunched", lambda: _unlaunched(guard))
    _repeat(healed, "unfinished", lambda: _unfinished(guard))
    _repeat(healed, "stuck", lambda: _stuck(guard))
    return healed


def _repeat(healed: Healed, cause: str, step: Callable[[], int], *, counted: bool = True) -> None:
    while True:
        count = step()
        if counted:
            healed.add(cause, count)
        if count < BATCH:
            return


def _due_retries(guard: Callable[[], bool]) -> int:
    """Publish task runs whose retry is due; one with locks becomes ready and asks for them again."""

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        # A hint that went out may wait in a long lane: repeated ever more rarely, as any other.
        rows = _locked(
            TaskRun.objects.filter(
                READY_RUNS,
                Q(hint_published_at__isnull=True) | _stale(now),
                state=TaskState.RETRY_WAITING,
                due_at__lte=now,
            ).order_by(F("hint_published_at").asc(nulls_first=True), "id")
        )
        return len(rows), _make_due(rows, now)

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _make_due(rows: list[TaskRun], now: datetime) -> list[binding.Hint]:
    free = [row for row in rows if not row.lock_count]
    ids = [row.pk for row in free]
    TaskRun.objects.filter(pk__in=ids, hint_published_at__isnull=True).update(hint_count=0)
    TaskRun.objects.filter(pk__in=ids).update(hint_published_at=now, hint_count=F("hint_count") + 1)
    return hints_of(free) + _ask_again([row for row in rows if row.lock_count], now, reason="retry is due")


def _ask_again(rows: list[TaskRun], now: datetime, *, reason: str) -> list[binding.Hint]:
    """Make task runs with locks ready and ask for their locks; returns the hints of those that got them."""
    if not rows:
        return []
    retrying = [row for row in rows if row.state == TaskState.RETRY_WAITING]
    move_tasks(retrying, TaskState.READY, now=now, reason=reason, cause="timer", ready_at=now, due_at=None)
    # A grant of before, unclaimed or of a vanished attempt, would stand in the way of the new request.
    hints = locks.release(task_run_ids=[row.pk for row in rows])
    for row in rows:
        version = compiled_version(row.run.version_id)
        granted = locks.ask(run_id=row.run_id, version=version, task_runs=[(row.position, row.pk)])
        hints += locks.hints_for(granted)
    return hints


def _run_deadlines(guard: Callable[[], bool]) -> int:
    """Stop runs whose time is up; the clock runs from admission."""
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    due = JobRun.objects.filter(
        state=RunState.RUNNING, deadline_at__lte=now, stop_requested_at__isnull=True
    ).values_list("id", "version_id")[:BATCH]
    rows = list(due)
    for run_id, version_id in rows:
        timeout = compiled_version(version_id).spec.timeout
        binding.publish(
            stop_run(run_id, state=RunState.TIMED_OUT, reason=f"the run took longer than {timeout:g} s", cause="timer")
        )
    return len(rows)


def _expired_leases(guard: Callable[[], bool]) -> int:
    """Take task runs from workers that vanished: again if idempotent, else failed (lost), for a person to decide."""

    def work() -> tuple[int, list[binding.Hint], set[int]]:
        if not guard():
            return 0, [], set()
        now = database_now()
        rows = _locked(TaskRun.objects.filter(state=TaskState.RUNNING, lease_until__lt=now).order_by("id"))
        hints: list[binding.Hint] = []
        for row in rows:
            hints += _expire(row, now)
        return len(rows), hints, {row.run_id for row in rows}

    count, hints, run_ids = in_transaction(work)
    for run_id in sorted(run_ids):
        hints += advance_run(run_id)
    binding.publish(hints)
    return count


def _expire(row: TaskRun, now: datetime) -> list[binding.Hint]:
    """Decide one expired lease, in the caller's transaction. The token is bumped: the old worker writes nothing."""
    version = compiled_version(row.run.version_id)
    task = version.tasks[row.position]
    attempt_state, kind = AttemptState.LOST, "lost"
    reason = f"lost: {row.worker} did not renew its lease"
    decision: RetryAfter | GiveUp
    to = TaskState.FAILED
    losses = row.lost_count + 1
    if row.stop_requested_at:
        attempt_state, to = AttemptState.LOST, TaskState(row.run.stop_state or TaskState.CANCELLED)
        decision, reason = GiveUp(""), row.stop_reason
    elif row.deadline_at is not None and row.deadline_at < now:
        attempt_state, to, kind = AttemptState.TIMED_OUT, TaskState.TIMED_OUT, "timeout"
        reason = f"took longer than {task.timeout:g} s, and its worker vanished"
        decision = after_failure(
            task.retry, kind="timeout", exit_code=None, idempotent=task.idempotent, attempts=row.attempt_count,
            jitter=random.random(),
        )  # fmt: skip
    else:
        decision = after_loss(idempotent=task.idempotent, losses=losses)
    Attempt.objects.filter(task_run=row, token=row.fencing_token, state=AttemptState.RUNNING).update(
        state=attempt_state, reason=reason[:500], failure_kind=kind, ended_at=now
    )
    fields: dict[str, Any] = {
        "fencing_token": row.fencing_token + 1,
        "lost_count": losses,
        "lease_until": None,
        "deadline_at": None,
        "worker": "",
    }
    # Its process may live for a moment yet: a lock it held is free only then.
    LockRequest.objects.filter(task_run=row).update(release_at=(row.lease_until or now) + locks.RELEASE_AFTER_LEASE)
    if isinstance(decision, GiveUp):
        move_tasks([row], to, now=now, reason=decision.reason or reason, cause="expire", **fields)
        return []
    if row.lock_count or decision.seconds:
        due = now + max(
            timedelta(seconds=decision.seconds), locks.RELEASE_AFTER_LEASE if row.lock_count else timedelta()
        )
        move_tasks([row], TaskState.RETRY_WAITING, now=now, reason=reason, cause="expire", due_at=due,
                   hint_published_at=None, **fields)  # fmt: skip
        return []
    move_tasks([row], TaskState.READY, now=now, reason=reason, cause="expire", ready_at=now, hint_published_at=now,
               hint_count=1, **fields)  # fmt: skip
    return hints_of([row])


def _released_locks(guard: Callable[[], bool]) -> int:
    """Free the locks of vanished holders, once their processes must have ended."""

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        ids = set(
            LockRequest.objects.filter(release_at__lte=database_now()).values_list("task_run_id", flat=True)[:BATCH]
        )
        return len(ids), locks.release(task_run_ids=ids) if ids else []

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _unplanned(guard: Callable[[], bool]) -> int:
    """Advance runs with final tasks that nobody planned; a chord's headers only when none of their fragment is open."""
    siblings = TaskRun.objects.filter(fragment_id=OuterRef("fragment_id"), state__in=TASK_OPEN)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    run_ids = list(
        TaskRun.objects.filter(ended_at__lt=now - UNPLANNED_AFTER, planned_at__isnull=True)
        .filter(Q(fragment__isnull=True) | ~Exists(siblings))
        .values_list("run_id", flat=True)
        .distinct()[:BATCH]
    )
    for run_id in run_ids:
        binding.publish(advance_run(run_id))
    return len(run_ids)


def _lost_hints(guard: Callable[[], bool]) -> int:
    """Publish ready task runs again whose message cannot be waiting in its lane any more.

    A long healthy queue is not a lost hint: a hint is lost when its lane is empty or holds less than half of the task
    runs that are ready for it, or when the lane has taken one that was published much later. So without a worker nothing
    is published twice, and with one nothing waits for ever.
    """

    pools = in_transaction(lambda: _pools_with_old_hints() if guard() else frozenset())
    if not pools:
        return 0
    # Outside the transaction: a broker that is away or frozen answers when it likes.
    depths = _lane_depths(pools)

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        rows = _stale_hints(now)
        if not rows:
            return 0, []
        thin = _thin_lanes(depths)
        taken = _latest_taken({row.task.pool for row in rows}, now)
        lost = [
            row
            for row in rows
            if row.task.pool in thin
            or (
                row.hint_published_at is not None
                and taken.get(row.task.pool, row.hint_published_at) > row.hint_published_at + OVERTAKEN_BY
            )
        ]
        TaskRun.objects.filter(pk__in=[row.pk for row in lost]).update(
            hint_published_at=now, hint_count=F("hint_count") + 1
        )
        return len(lost), hints_of(lost)

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _stale_hints(now: datetime) -> list[TaskRun]:
    """Ready task runs with an old hint, the pause doubling with each; the locks of those that need some are granted."""
    first = timedelta(seconds=options().hint_seconds)
    rows = _locked(
        TaskRun.objects.filter(READY_RUNS, _stale(now), state=TaskState.READY)
        .select_related("task")
        .order_by("hint_published_at")
    )
    granted = list(
        TaskRun.objects.filter(
            READY_RUNS, state=TaskState.READY, lock_count__gt=0, hint_published_at__isnull=True,
            lock_requests__granted_at__lt=now - first, lock_requests__release_at__isnull=True,
        ).select_related("run", "task").distinct()[:BATCH]
    )  # fmt: skip
    return [row for row in (*rows, *granted) if locks.are_granted(row)]


def _stale(now: datetime) -> Q:
    """Hints whose pause is over: 15 s after the first, 30 s after the second … at most five minutes.

    By their count in the query, so that a fresh loss is not hidden behind old ones whose turn comes later.
    """
    first = timedelta(seconds=options().hint_seconds)
    stale = Q(hint_count__lte=1, hint_published_at__lt=now - first)
    for count in range(2, 7):
        counted = Q(hint_count=count) if count < 6 else Q(hint_count__gte=6)
        stale |= counted & Q(hint_published_at__lt=now - min(first * 2 ** (count - 1), LONGEST_PAUSE))
    return stale


def _pools_with_old_hints() -> frozenset[str]:
    old = database_now() - timedelta(seconds=options().hint_seconds)
    rows = TaskRun.objects.filter(READY_RUNS, PUBLISHED, state=TaskState.READY)
    return frozenset(rows.exclude(hint_published_at__gte=old).values_list("task__pool", flat=True).distinct())


def _lane_depths(pools: Iterable[str]) -> dict[str, int]:
    """The messages that wait in each lane, without lanes that cannot be asked."""
    depths = {}
    for pool in pools:
        try:
            depths[pool] = binding.lane_depth(pool)
        except binding.BROKER_ERRORS as error:
            # Nothing can be published into it now either; the next round asks again.
            logger.info("lane not measured", extra={"pool": pool, "error": str(error)})
    return depths


def _thin_lanes(depths: Mapping[str, int]) -> set[str]:
    """Lanes that hold none or less than half of the messages for task runs that are ready.

    Not simply fewer: a worker that has taken a message and not claimed yet would let a whole backlog be doubled.
    """
    waiting = dict(
        TaskRun.objects.filter(READY_RUNS, PUBLISHED, state=TaskState.READY, task__pool__in=list(depths))
        .values_list("task__pool")
        .annotate(n=Count("id"))
    )
    return {pool for pool, depth in depths.items() if not depth or 2 * depth < waiting.get(pool, 0)}


def _latest_taken(pools: Iterable[str], now: datetime) -> dict[str, datetime]:
    """The newest hint that each lane has taken lately."""
    return dict(
        Attempt.objects.filter(started_at__gt=now - LATELY, task_run__task__pool__in=set(pools), number=1)
        .values_list("task_run__task__pool")
        .annotate(newest=Max("task_run__hint_published_at"))
    )


def _unclaimed_grants(guard: Callable[[], bool]) -> int:
    """Take back grants that nobody claimed, and give them to the next; who lost one asks again, behind the others."""

    def work() -> tuple[int, list[binding.Hint]]:
        if not guard():
            return 0, []
        now = database_now()
        unclaimed = LockRequest.objects.filter(task_run=OuterRef("pk"), granted_at__lt=now - GRANT_LIVES)
        # The row locks keep claims out until the grants are gone: a claim reads them under the same lock.
        rows = _locked(
            TaskRun.objects.filter(Exists(unclaimed), state=TaskState.READY, run__state=RunState.RUNNING).order_by("id")
        )
        return len(rows), _ask_again(rows, now, reason="")

    count, hints = in_transaction(work)
    binding.publish(hints)
    return count


def _free_locks(guard: Callable[[], bool]) -> int:
    """Grant locks that have waiters and free slots: a capacity was raised, or a holder's row vanished."""
    held = Count("requests", filter=Q(requests__granted_at__isnull=False))
    waiting = Count("requests", filter=Q(requests__granted_at__isnull=True))
    ids = list(
        Lock.objects.annotate(held=held, waiting=waiting)
        .filter(waiting__gt=0, held__lt=F("capacity"))
        .values_list("id", flat=True)[:BATCH]
    )
    if not ids:
        return 0
    hints = in_transaction(lambda: locks.grant_free(ids) if guard() else [])
    binding.publish(hints)
    return len(hints)


def _queue_timeouts(guard: Callable[[], bool]) -> int:
    """End ready task runs that waited longer than their queue_timeout."""

    def work() -> tuple[int, list[binding.Hint], set[int]]:
        if not guard():
            return 0, [], set()
        now = database_now()
        ready = TaskRun.objects.filter(state=TaskState.READY, task__queue_timeout_seconds__isnull=False)
        late = Q(pk__in=[])
        # A few different times at most: each compares with its own moment, which an index can answer.
        for seconds in ready.values_list("task__queue_timeout_seconds", flat=True).distinct():
            late |= Q(task__queue_timeout_seconds=seconds, ready_at__lt=now - timedelta(seconds=seconds or 0))
        rows = _locked(ready.filter(late).select_related("task").order_by("id"))
        for row in rows:
            move_tasks([row], TaskState.TIMED_OUT, now=now, cause="timer",
                       reason=f"waited longer than {row.task.queue_timeout_seconds:g} s to start")  # fmt: skip
        hints = locks.release(task_run_ids=[row.pk for row in rows if row.lock_count])
        return len(rows), hints, {row.run_id for row in rows}

    count, hints, run_ids = in_transaction(work)
    for run_id in sorted(run_ids):
        hints += advance_run(run_id)
    binding.publish(hints)
    return count


def _unlaunched(guard: Callable[[], bool]) -> int:
    """Admit pending runs whose launch was lost, and held runs of jobs that have room again."""
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    running = Count("runs", filter=Q(runs__state=RunState.RUNNING))
    pending = JobRun.objects.filter(
        job_id=OuterRef("pk"), state=RunState.PENDING, created_at__lt=now - UNLAUNCHED_AFTER
    )
    jobs = (
        Job.objects.filter(Exists(pending), paused_at__isnull=True)
        .annotate(running=running)
        .filter(Q(concurrency_limit__isnull=True) | Q(running__lt=F("concurrency_limit")))
        .values_list("id", flat=True)[:BATCH]
    )
    for job_id in list(jobs):
        binding.publish(admission.admit_job(job_id))
    return len(jobs)


def _unfinished(guard: Callable[[], bool]) -> int:
    """Finish running runs with nothing open: the process that ended their last task died before it looked."""
    open_tasks = TaskRun.objects.filter(run_id=OuterRef("pk"), state__in=TASK_OPEN)
    unplanned = TaskRun.objects.filter(run_id=OuterRef("pk"), ended_at__isnull=False, planned_at__isnull=True)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    run_ids = list(
        JobRun.objects.filter(~Exists(open_tasks), ~Exists(unplanned), state=RunState.RUNNING,
                              started_at__lt=now - UNPLANNED_AFTER).values_list("id", flat=True)[:BATCH]
    )  # fmt: skip
    for run_id in run_ids:
        binding.publish(finish_if_over(run_id))
    return len(run_ids)


def _stuck(guard: Callable[[], bool]) -> int:
    """Plan every waiting task of a run in which nothing moves: a defect of ours, healed and counted."""
    moving = TaskRun.objects.filter(
        Q(state__in=TASK_OPEN - {TaskState.WAITING}) | Q(ended_at__isnull=False, planned_at__isnull=True),
        run_id=OuterRef("pk"),
    )
    waiting = TaskRun.objects.filter(run_id=OuterRef("pk"), state=TaskState.WAITING)
    now = in_transaction(lambda: database_now() if guard() else None)
    if now is None:
        return 0
    runs = list(
        JobRun.objects.filter(~Exists(moving), Exists(waiting), state=RunState.RUNNING,
                              started_at__lt=now - UNPLANNED_AFTER).values_list("id", "version_id")[:BATCH]
    )  # fmt: skip
    for run_id, version_id in runs:
        logger.error("run was stuck", extra={"run": run_id})
        binding.publish(in_transaction(lambda: _plan_waiting(run_id, version_id)))  # noqa: B023  called at once
        binding.publish(advance_run(run_id))
    return len(runs)


def _plan_waiting(run_id: int, version_id: int) -> list[binding.Hint]:
    version = compiled_version(version_id)
    rows = list(TaskRun.objects.select_for_update(of=("self",)).filter(run_id=run_id).order_by("id"))
    near = Neighbourhood(
        candidates=tuple(
            Candidate(row.position, version.tasks[row.position].join, version.graph.dependencies[row.position])
            for row in rows
            if row.state == TaskState.WAITING
        ),
        states={row.position: TaskState(row.state) for row in rows},
        names=dict(enumerate(version.graph.names)),
        results={row.position: row.result for row in rows},
        parameters=JobRun.objects.values_list("parameters", flat=True).get(pk=run_id),
        event=JobRun.objects.values_list("event", flat=True).get(pk=run_id),
    )
    with connection.cursor() as cursor:
        step = apply(cursor, run_id=run_id, version=version, near=near)
    record(
        subject="run", subject_id=run_id, run_id=run_id, old=RunState.RUNNING, new=RunState.RUNNING,
        now=database_now(), reason="nothing moved: all waiting tasks planned again", cause="reconciler",
    )  # fmt: skip
    return list(step.hints)


def _locked(rows: QuerySet[TaskRun]) -> list[TaskRun]:
    return list(rows.select_related("run").select_for_update(of=("self",), skip_locked=True)[:BATCH])


def lag_seconds() -> float:
    """Pause between two rounds, by profile."""
    return float(settings.RECONCILE_SECONDS)
