"""Why a task run does not run yet, or what it does."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.db.models import Max, QuerySet
from django.db.models.functions import Now

from orchestrator.errors import UnknownTaskRun
from orchestrator.models import Attempt, Dependency, TaskRun
from orchestrator.planning.patience import UNPLANNED_AFTER
from orchestrator.selectors.waiting.queues import lane_reasons, lock_reasons
from orchestrator.selectors.waiting.reasons import MOST_NAMED, WaitReason, at, because, by_whom, counted, listed
from orchestrator.states import TASK_FINAL, TASK_OPEN, TaskState


def why_waiting_task(task_run_id: int) -> tuple[WaitReason, ...]:
    """Return why a task run waits, most binding first; one that runs or has ended says so. Raises UnknownTaskRun.

    A fixed number of queries, whatever the size of the run.
    """
    row = with_facts(TaskRun.objects.filter(pk=task_run_id)).first()
    if row is None:
        raise UnknownTaskRun(f"There is no task run {task_run_id}.")
    return tuple(reasons_of(row, now_of(row)))


def with_facts(rows: QuerySet[TaskRun]) -> QuerySet[TaskRun]:
    """Load with each task run what its reasons need, and the moment by the database's clock."""
    heavy = ("result", "run__event", "run__parameters", "run__trigger")
    return rows.select_related("task", "run").defer(*heavy).annotate(now=Now())


def now_of(row: TaskRun) -> datetime:
    moment: datetime = row.now  # type: ignore[attr-defined]  # annotated
    return moment


def reasons_of(row: TaskRun, now: datetime, *, deep: bool = True) -> list[WaitReason]:
    """Return the reasons of a row that `with_facts` loaded. `deep`: those of what it waits for too, one level."""
    state = TaskState(row.state)
    if state in TASK_FINAL:
        return [_final(row)]
    if state == TaskState.RUNNING:
        return _running(row, now)
    reasons = hold_reasons(row)
    if state == TaskState.WAITING:
        reasons += _dependencies(row, now, deep=deep)
    elif state == TaskState.READY:
        reasons += _ready(row, now)
    else:
        reasons += _timed(row, now)
    return reasons


def hold_reasons(row: TaskRun) -> list[WaitReason]:
    """Return what holds every task of the run: a requested stop, a pause."""
    run = row.run
    reasons = []
    if run.stop_requested_at is not None:
        reasons.append(
            WaitReason(
                "stop_requested",
                f"run {run.pk} is asked to stop since {at(run.stop_requested_at)}{because(run.stop_reason)}",
                run.stop_requested_at,
                {"run": run.pk, "reason": run.stop_reason},
            )
        )
    if run.paused_at is not None:
        reasons.append(
            WaitReason(
                "run_paused",
                f"run {run.pk} is paused since {at(run.paused_at)}{by_whom(run.paused_by)}{because(run.pause_reason)}",
                run.paused_at,
                {"run": run.pk, "by": run.paused_by, "reason": run.pause_reason},
            )
        )
    return reasons


def _final(row: TaskRun) -> WaitReason:
    return WaitReason(
        "final",
        f"{row.task.name} {_ended(row.state)} at {at(row.ended_at)}{because(row.reason)}",
        row.ended_at,
        {"state": row.state, "reason": row.reason},
    )


def _ended(state: str) -> str:
    words = {"skipped": "was skipped", "cancelled": "was cancelled", "timed_out": "timed out"}
    return words.get(state, "ended upstream_failed" if state == TaskState.UPSTREAM_FAILED else state)


def _running(row: TaskRun, now: datetime) -> list[WaitReason]:
    attempt = Attempt.objects.filter(task_run=row, number=row.attempt_count).only("started_at").first()
    since = attempt.started_at if attempt is not None else row.started_at
    facts = {"worker": row.worker, "attempt": row.attempt_count, "deadline_at": row.deadline_at}
    running = WaitReason(
        "running", f"{row.task.name} runs since {at(since)} on {row.worker} (attempt {row.attempt_count})", since, facts
    )
    reasons = []
    if row.lease_until is not None and row.lease_until < now:
        reasons.append(
            WaitReason(
                "worker_silent",
                f"the worker of {row.task.name}, {row.worker}, is silent: its lease ended at {at(row.lease_until)}, and the "
                "reconciler decides what follows",
                row.lease_until,
                {"worker": row.worker, "lease_until": row.lease_until},
            )
        )
    if row.stop_requested_at is not None:
        reasons.append(
            WaitReason(
                "stop_requested",
                f"{row.task.name} is asked to stop since {at(row.stop_requested_at)}{because(row.stop_reason)}",
                row.stop_requested_at,
                {"reason": row.stop_reason},
            )
        )
    return [*reasons, running]


def _ready(row: TaskRun, now: datetime) -> list[WaitReason]:
    hinted_at, hints = row.hint_published_at, row.hint_count
    if row.lock_count:
        locks, granted_at = lock_reasons(row)
        if locks:
            return locks
        hinted_at, hints = max(filter(None, (granted_at, hinted_at)), default=None), max(hints, 1)
    return lane_reasons(row, now, hinted_at=hinted_at, hints=hints)


def _timed(row: TaskRun, now: datetime) -> list[WaitReason]:
    """Say what a retry or a deferred attempt waits for: its moment, and then a worker."""
    is_due = row.due_at is not None and row.due_at <= now
    facts = {"due_at": row.due_at, "attempt": row.attempt_count}
    when = f"was due at {at(row.due_at)}" if is_due else f"is due at {at(row.due_at)}"
    if row.state == TaskState.DEFERRED:
        text = f"{row.task.name} is deferred: attempt {row.attempt_count} goes on later and {when}{because(row.reason)}"
        reason = WaitReason("deferred", text, row.started_at, facts)
    else:
        last = (
            Attempt.objects.filter(task_run=row, number=row.attempt_count).only("ended_at", "reason", "state").first()
        )
        why = last.reason if last is not None and last.reason else row.reason
        ended = f"attempt {row.attempt_count} {_ended(last.state) if last is not None else 'failed'}"
        reason = WaitReason(
            "retry",
            f"{row.task.name}: the next attempt {when}; {ended}{because(why)}",
            last.ended_at if last is not None else None,
            facts | {"reason": why},
        )
    if not is_due:
        return [reason]
    if row.lock_count and row.state == TaskState.RETRY_WAITING:
        return [reason]  # it asks for its locks within the second
    return [reason, *lane_reasons(row, now, hinted_at=row.hint_published_at, hints=row.hint_count)]


def _dependencies(row: TaskRun, now: datetime, *, deep: bool) -> list[WaitReason]:
    """Say which upstream tasks are not final, those first that move; the first one with its own reason."""
    edges = Dependency.objects.filter(version_id=row.run.version_id, downstream_position=row.position)
    upstreams = TaskRun.objects.filter(run_id=row.run_id, position__in=edges.values("upstream_position"))
    ids = _first_ids(upstreams, TASK_OPEN - {TaskState.WAITING}, MOST_NAMED)
    ids += _first_ids(upstreams, {TaskState.WAITING}, MOST_NAMED - len(ids))
    if not ids:
        return [_planning(row, upstreams)]
    count = len(ids) if len(ids) < MOST_NAMED else counted(upstreams.filter(state__in=TASK_OPEN))
    by_id = {upstream.pk: upstream for upstream in with_facts(TaskRun.objects.filter(pk__in=ids))}
    first = [by_id[id] for id in ids]
    names = [upstream.task.name for upstream in first]
    facts = {"tasks": names, "count": count, "join": row.task.join}
    name = row.task.name
    if row.task.join == "any":
        own = WaitReason(
            "dependency_any",
            f"{name} waits for any one of {listed(names, count)} (join: any); what has ended so far opened nothing",
            row.run.started_at,
            facts,
        )
    else:
        own = WaitReason("dependency", f"{name} waits for {listed(names, count)}", row.run.started_at, facts)
    if not deep:
        return [own]
    deeper = reasons_of(first[0], now, deep=False)[0]
    text = f"{own.text} ({deeper.text})"
    return [WaitReason(own.code, text, own.since, {**facts, "because": {"code": deeper.code, **deeper.facts}})]


def _first_ids(upstreams: QuerySet[TaskRun], states: Collection[str], most: int) -> list[int]:
    """Return the first few of thousands of upstreams: the database may stop at the last one of them."""
    if most <= 0:
        return []
    return list(upstreams.filter(state__in=states).order_by("position").values_list("pk", flat=True)[:most])


def _planning(row: TaskRun, upstreams: QuerySet[TaskRun]) -> WaitReason:
    ended = upstreams.aggregate(last=Max("ended_at"))["last"] or row.run.started_at
    healed_at = ended + UNPLANNED_AFTER if ended else None
    return WaitReason(
        "planning",
        f"all that {row.task.name} waits for has ended; what follows is about to be planned, by the reconciler if not "
        f"before {at(healed_at)}",
        ended,
        {"healed_at": healed_at},
    )
