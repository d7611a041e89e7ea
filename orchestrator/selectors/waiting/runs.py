"""Why a run has not started, or what keeps it from its end."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import Count, Q

from orchestrator.errors import UnknownRun
from orchestrator.models import Job, JobRun, TaskRun
from orchestrator.planning.patience import UNLAUNCHED_AFTER, UNPLANNED_AFTER
from orchestrator.selectors.waiting.reasons import (
    MOST_NAMED,
    WaitReason,
    at,
    because,
    by_whom,
    counted,
    listed,
    number,
)
from orchestrator.selectors.waiting.tasks import now_of, reasons_of, with_facts
from orchestrator.states import RUN_FINAL, TASK_OPEN, RunState, TaskState

#: Runs that one text names.
RUNS_NAMED = 5


def why_waiting_run(run_id: int) -> tuple[WaitReason, ...]:
    """Return why a run waits, most binding first; one that has ended says so. Raises UnknownRun.

    A bounded number of queries, whatever the size of the run: at most three of its tasks are looked into.
    """
    run = JobRun.objects.select_related("job").defer("event", "parameters", "trigger").filter(pk=run_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    if run.state in RUN_FINAL:
        return (
            WaitReason(
                "final", f"run {run.pk} ended {run.state} at {at(run.ended_at)}{because(run.reason)}", run.ended_at,
                {"state": run.state, "reason": run.reason},
            ),
        )  # fmt: skip
    return tuple(_pending(run) if run.state == RunState.PENDING else _running(run))


def _pending(run: JobRun) -> list[WaitReason]:
    job = run.job
    reasons = []
    if job.paused_at is not None:
        reasons.append(
            WaitReason(
                "job_paused",
                f"the job {job.name} is paused since {at(job.paused_at)}{by_whom(job.paused_by)}{because(job.pause_reason)}",
                job.paused_at,
                {"job": job.name, "by": job.paused_by, "reason": job.pause_reason},
            )
        )
    if run.admission_key is not None:
        reasons += _key(run, run.admission_key)
    if job.concurrency_limit is not None:
        reasons += _concurrency(run, job, job.concurrency_limit)
    if run.paused_at is not None:
        reasons.append(_paused(run))
    if not reasons:
        healed_at = run.created_at + UNLAUNCHED_AFTER
        reasons.append(
            WaitReason(
                "launch",
                f"run {run.pk} is about to be admitted, by the reconciler if not before {at(healed_at)}",
                run.created_at,
                {"healed_at": healed_at},
            )
        )
    if run.expires_at is not None:
        reasons.append(
            WaitReason(
                "expiry",
                f"run {run.pk} ends cancelled (expired) if it has not started at {at(run.expires_at)}",
                run.created_at,
                {"expires_at": run.expires_at},
            )
        )
    return reasons


def _key(run: JobRun, key: UUID) -> list[WaitReason]:
    """Say which runs of its key come before it: they start in the order of their ids, so many at once."""
    limit = run.admission_limit or 1
    running = JobRun.objects.filter(admission_key=key, state=RunState.RUNNING)
    before = JobRun.objects.filter(admission_key=key, state=RunState.PENDING, pk__lt=run.pk)
    count, ahead = counted(running), counted(before)
    if not ahead and count < limit:
        return []
    holders = list(running.order_by("id").values_list("id", flat=True)[:RUNS_NAMED])
    held = f"is held by {listed([f'run {id}' for id in holders], count)}" if holders else "is free"
    turn = "it is next" if not ahead else f"{number(ahead, 'run of the key waits', 'runs of the key wait')} before it"
    return [
        WaitReason(
            "concurrency_key",
            f"concurrency {limit} of the key of its rule {held}; {turn}",
            run.created_at,
            {"key": str(key), "limit": limit, "runs": holders, "running": count, "ahead": ahead},
        )
    ]


def _concurrency(run: JobRun, job: Job, limit: int) -> list[WaitReason]:
    running = JobRun.objects.filter(job=job, state=RunState.RUNNING)
    count = counted(running)
    if count < limit:
        return []
    holders = list(running.order_by("id").values_list("id", "started_at", "stop_requested_at")[:RUNS_NAMED])
    before = Q(priority__lt=run.priority) | Q(priority=run.priority, pk__lt=run.pk)
    ahead = counted(JobRun.objects.filter(before, job=job, state=RunState.PENDING))
    named = [
        f"run {id} (" + (f"asked to stop since {at(stop)})" if stop else f"running since {at(started)})")
        for id, started, stop in holders
    ]
    turn = "it is next" if not ahead else f"{number(ahead, 'run waits', 'runs wait')} before it"
    return [
        WaitReason(
            "concurrency",
            f"concurrency {limit} of the job {job.name} is held by {listed(named, count)}; {turn}",
            run.created_at,
            {"job": job.name, "limit": limit, "runs": [id for id, _, _ in holders], "running": count, "ahead": ahead},
        )
    ]


def _running(run: JobRun) -> list[WaitReason]:
    reasons = []
    if run.stop_requested_at is not None:
        reasons.append(
            WaitReason(
                "stop_requested",
                f"run {run.pk} is asked to stop since {at(run.stop_requested_at)}{because(run.stop_reason)}; it ends with "
                "its running tasks",
                run.stop_requested_at,
                {"reason": run.stop_reason, "becomes": run.stop_state},
            )
        )
    if run.paused_at is not None:
        reasons.append(_paused(run))
    tasks = TaskRun.objects.filter(run=run)
    counts = dict(tasks.filter(state__in=TASK_OPEN).order_by().values_list("state").annotate(Count("pk")))
    moving = sum(count for state, count in counts.items() if state != TaskState.WAITING)
    if not moving:
        return [*reasons, _between(run, counts.get(TaskState.WAITING, 0))]
    chosen = list(
        with_facts(tasks.filter(state=TaskState.RUNNING)).order_by("position")[:MOST_NAMED]
        if counts.get(TaskState.RUNNING)
        else with_facts(tasks.filter(state__in=TASK_OPEN - {TaskState.WAITING, TaskState.RUNNING})).order_by(
            "position"
        )[:MOST_NAMED]
    )
    held = {reason.code for reason in reasons}
    for row in chosen:
        # The pause of the run is said once.
        own = [reason for reason in reasons_of(row, now_of(row), deep=False) if reason.code not in held]
        if own:
            facts = {"task_run": row.pk, "task": row.task.name, **own[0].facts}
            reasons.append(WaitReason(own[0].code, own[0].text, own[0].since, facts))
    reasons.append(
        WaitReason(
            "tasks",
            "open tasks: "
            + ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in TaskState if counts.get(state)),
            run.started_at,
            {"open": {str(state): counts[state] for state in TaskState if counts.get(state)}},
        )
    )
    return reasons


def _paused(run: JobRun) -> WaitReason:
    return WaitReason(
        "run_paused",
        f"run {run.pk} is paused since {at(run.paused_at)}{by_whom(run.paused_by)}{because(run.pause_reason)}",
        run.paused_at,
        {"by": run.paused_by, "reason": run.pause_reason},
    )


def _between(run: JobRun, waiting: int) -> WaitReason:
    """Say that the run stands between two steps: what ended last is not planned yet, or the run not finished."""
    ended: datetime | None = (
        TaskRun.objects.filter(run=run, ended_at__isnull=False).order_by("-ended_at").values_list("ended_at", flat=True).first()
    )  # fmt: skip
    since = ended or run.started_at
    healed_at = since + UNPLANNED_AFTER if since else None
    what = (
        f"{number(waiting, 'task waits', 'tasks wait')} to be planned" if waiting else "all its tasks have ended; it is about to end"
    )  # fmt: skip
    return WaitReason(
        "planning",
        f"run {run.pk}: {what}, by the reconciler if not before {at(healed_at)}",
        since,
        {"waiting": waiting, "healed_at": healed_at},
    )
