"""How things stand for one person, now and today: all that the overview shows.

Every query reads an index up to a bound, so that the page costs the same with a thousand runs and with millions; what
is beyond a bound is shown as "more than". Their number does not depend on what there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.conf import options
from orchestrator.contracts import CONTROL_LANE
from orchestrator.errors import UnknownRun, UnknownTaskRun
from orchestrator.models import Job, JobRun, LaneWorker, Lease, TaskRun, Tenant
from orchestrator.planning.patience import WORKER_LIVES
from orchestrator.registry import EventStanding, event_standings
from orchestrator.selectors.waiting import WaitReason, why_waiting_run, why_waiting_task
from orchestrator.states import RUN_FINAL, RunState, TaskState

#: Runs and tasks are counted up to here; runs of a day are the newest so many of it.
MOST_COUNTED: Final = 10_000
#: Failed runs that are looked at for the jobs that fail.
FAILURES_READ: Final = 2_000
FAILING_WITHIN: Final = timedelta(hours=24)
#: Of those, the jobs of which it is asked how they came out since: those with most failures.
JOBS_JUDGED: Final = 200
JOBS_NAMED: Final = 6
LANES_NAMED: Final = 8
SOURCES_NAMED: Final = 6
#: Rows of workers that are read: a report for each lane of each worker process.
WORKERS_READ: Final = 2_000
FAILED: Final = (RunState.FAILED, RunState.TIMED_OUT)
#: What the share of success is taken of: a run that was cancelled says nothing about how well jobs run.
JUDGED: Final = (RunState.SUCCEEDED, *FAILED)

#: Ids of tenants; None: every one.
Tenants = frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Day:
    """Today, in the zone of the tenants that are shown; in UTC when they do not share one."""

    start: datetime
    zone: str


@dataclass(frozen=True, slots=True)
class RunsOfDay:
    """The runs created today by their state. `capped`: only the newest MOST_COUNTED of them."""

    counts: Mapping[str, int]
    capped: bool

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        return sum(self.counts[state] for state in FAILED)

    @property
    def judged(self) -> int:
        return sum(self.counts[state] for state in JUDGED)

    @property
    def success(self) -> float | None:
        """The share of those that came to an end by themselves that succeeded, 0 to 1; None before the first."""
        return self.counts[RunState.SUCCEEDED] / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What has waited longest, and the most binding reason."""

    id: int
    run_id: int
    job: str
    #: Empty for a run that is not let in yet.
    task: str
    since: datetime | None
    reason: WaitReason | None


@dataclass(frozen=True, slots=True)
class FailingJob:
    """A job with failed runs in the last 24 hours, and how its newest ended run came out."""

    id: int
    name: str
    failures: int
    run_id: int
    failed_at: datetime | None
    reason: str
    #: Its newest run that ended did not fail.
    recovered: bool


@dataclass(frozen=True, slots=True)
class LaneStanding:
    """A lane: who takes from it, and what is in it."""

    name: str
    workers: int
    #: Of its workers. One that takes from several lanes has the same slots for all of them.
    slots: int
    #: Tasks of this lane, and of all lanes that share a worker with it.
    running: int
    running_beside: int
    ready: int
    #: When a worker that no longer lives was last seen, if none lives.
    last_seen: datetime | None

    @property
    def is_silent(self) -> bool:
        return not self.workers

    @property
    def is_full(self) -> bool:
        """Whether tasks are ready while every slot of its workers is taken."""
        return bool(self.workers and self.ready and self.running_beside >= self.slots)


@dataclass(frozen=True, slots=True)
class Leader:
    """A role of which there is one at a time."""

    name: str
    leads: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """All that the overview shows."""

    day: Day
    runs: RunsOfDay
    running_runs: int
    pending_runs: int
    running_tasks: int
    ready_tasks: int
    waiting: tuple[Waiting, ...]
    failing: tuple[FailingJob, ...]
    #: Whether more jobs fail than are listed.
    more_failing: bool
    failing_since: datetime
    lanes: tuple[LaneStanding, ...]
    more_lanes: int
    #: Worker processes that report, and the slots of all of them.
    live_workers: int
    slots: int
    leaders: tuple[Leader, ...]
    events: EventStanding | None


def standing(tenants: Sequence[Tenant], *, all_tenants: bool, now: datetime) -> Standing:
    """Return how things stand in these tenants; `all_tenants` says that they are every one there is."""
    ids = None if all_tenants else frozenset(tenant.pk for tenant in tenants)
    day = day_of({tenant.timezone for tenant in tenants}, now)
    running, ready = _tasks_by_lane(TaskState.RUNNING, ids), _tasks_by_lane(TaskState.READY, ids)
    since = (now - FAILING_WITHIN).replace(second=0, microsecond=0)
    failing = _failing(ids, since)
    lanes, workers = _lanes(running, ready, now)
    return Standing(
        day=day,
        runs=_runs_of_day(ids, day.start),
        running_runs=_counted(_of(JobRun.objects.filter(state=RunState.RUNNING), ids)),
        pending_runs=_counted(_of(JobRun.objects.filter(state=RunState.PENDING), ids)),
        running_tasks=sum(running.values()),
        ready_tasks=sum(ready.values()),
        waiting=tuple(each for each in (_oldest_task(ids), _oldest_run(ids)) if each is not None),
        failing=tuple(failing[:JOBS_NAMED]),
        more_failing=len(failing) > JOBS_NAMED,
        failing_since=since,
        lanes=tuple(lanes[:LANES_NAMED]),
        more_lanes=max(0, len(lanes) - LANES_NAMED),
        live_workers=len(workers),
        slots=sum(workers.values()),
        leaders=_leaders(now),
        events=next((ask(ids, SOURCES_NAMED) for ask in event_standings), None),
    )


def tenants_shown(tenants: Tenants) -> tuple[Sequence[Tenant], datetime]:
    """Return the tenants by name, and the moment by the database's clock, which wrote what is held against it."""
    rows = Tenant.objects.all() if tenants is None else Tenant.objects.filter(pk__in=sorted(tenants))
    found = list(rows.annotate(now=Now()).only("slug", "name", "timezone").order_by("slug"))
    return found, found[0].now if found else timezone.now()


def day_of(zones: Collection[str], now: datetime) -> Day:
    """Return today in the zone that all share, otherwise in UTC."""
    zone = next(iter(zones)) if len(set(zones)) == 1 else "UTC"
    start = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    return Day(start.astimezone(UTC), zone)


def _of(rows: QuerySet[Any], tenants: Tenants, path: str = "tenant_id") -> QuerySet[Any]:
    return rows if tenants is None else rows.filter(**{f"{path}__in": sorted(tenants)})


def _counted(rows: QuerySet[Any]) -> int:
    """Count rows, up to one more than MOST_COUNTED."""
    return rows.order_by()[: MOST_COUNTED + 1].count()


def _runs_of_day(tenants: Tenants, start: datetime) -> RunsOfDay:
    newest = _of(JobRun.objects.filter(created_at__gte=start), tenants).order_by("-created_at")
    # Of the columns that the index has, and no other: the rows themselves are not read.
    counts = newest.values("created_at", "state")[:MOST_COUNTED].aggregate(
        **{state.value: Count("state", filter=Q(state=state)) for state in RunState}
    )
    return RunsOfDay(counts, capped=sum(counts.values()) == MOST_COUNTED)


def _tasks_by_lane(state: TaskState, tenants: Tenants) -> dict[str, int]:
    """Count the task runs in a state by their lane, up to one more than MOST_COUNTED in all."""
    rows = _of(TaskRun.objects.filter(state=state), tenants, "run__tenant_id")
    bounded = TaskRun.objects.filter(pk__in=rows.order_by().values("pk")[: MOST_COUNTED + 1])
    return dict(bounded.values_list("task__pool").annotate(Count("pk")).order_by())


def _oldest_task(tenants: Tenants) -> Waiting | None:
    rows = _of(TaskRun.objects.filter(state=TaskState.READY), tenants, "run__tenant_id")
    row = (
        rows.select_related("task", "run__job")
        .only("ready_at", "task__name", "run__id", "run__job__name")
        .order_by("ready_at")
        .first()
    )
    if row is None:
        return None
    try:
        reasons = why_waiting_task(row.pk)
    except UnknownTaskRun:  # deleted since
        reasons = ()
    return Waiting(row.pk, row.run_id, row.run.job.name, row.task.name, row.ready_at, _first(reasons))


def _oldest_run(tenants: Tenants) -> Waiting | None:
    rows = _of(JobRun.objects.filter(state=RunState.PENDING), tenants)
    row = rows.select_related("job").only("created_at", "job__name").order_by("pk").first()
    if row is None:
        return None
    try:
        reasons = why_waiting_run(row.pk)
    except UnknownRun:  # deleted since
        reasons = ()
    return Waiting(row.pk, row.pk, row.job.name, "", row.created_at, _first(reasons))


def _first(reasons: Sequence[WaitReason]) -> WaitReason | None:
    return reasons[0] if reasons else None


def _failing(tenants: Tenants, since: datetime) -> list[FailingJob]:
    """Return one job more than are named: those that still fail first, then those with most failures."""
    failed = _of(JobRun.objects.filter(created_at__gte=since, state__in=FAILED), tenants).order_by("-created_at")
    newest_ended = JobRun.objects.filter(job=OuterRef("pk"), state__in=RUN_FINAL).order_by("-pk").values("state")[:1]
    found = {
        job_id: (failures, newest)
        for job_id, failures, newest in JobRun.objects.filter(pk__in=failed.values("pk")[:FAILURES_READ])
        .values_list("job_id")
        .annotate(failures=Count("pk"), newest=Max("pk"))
        .order_by("-failures", "job_id")[:JOBS_JUDGED]
    }
    jobs = list(Job.objects.filter(pk__in=found).annotate(outcome=Subquery(newest_ended)).only("name"))
    jobs.sort(key=lambda job: (job.outcome not in FAILED, -found[job.pk][0], job.name))
    chosen = jobs[: JOBS_NAMED + 1]
    last = JobRun.objects.only("ended_at", "reason").in_bulk([found[job.pk][1] for job in chosen])
    return [
        FailingJob(
            job.pk,
            job.name,
            failures,
            newest,
            last[newest].ended_at,
            last[newest].reason,
            recovered=job.outcome not in FAILED,
        )
        for job in chosen
        for failures, newest in (found[job.pk],)
        if newest in last  # else deleted since
    ]


def _lanes(
    running: Mapping[str, int], ready: Mapping[str, int], now: datetime
) -> tuple[list[LaneStanding], dict[str, int]]:
    """Return the lanes, those that need a worker and have none first, and the slots of the live workers."""
    live: dict[str, set[str]] = {}
    seen: dict[str, datetime] = {}
    slots_of: dict[str, int] = {}
    for lane, worker, slots, seen_at in LaneWorker.objects.order_by("-seen_at").values_list(
        "lane", "worker", "slots", "seen_at"
    )[:WORKERS_READ]:
        seen.setdefault(lane, seen_at)
        if seen_at >= now - WORKER_LIVES:
            live.setdefault(lane, set()).add(worker)
            slots_of[worker] = slots
    lanes = []
    for name in {CONTROL_LANE, *options().pools, *seen, *running, *ready}:
        workers = live.get(name, set())
        beside = sum(running.get(other, 0) for other, theirs in live.items() if workers & theirs)
        lanes.append(
            LaneStanding(
                name,
                workers=len(workers),
                slots=sum(slots_of[worker] for worker in workers),
                running=running.get(name, 0),
                running_beside=beside,
                ready=ready.get(name, 0),
                last_seen=None if workers else seen.get(name),
            )
        )
    lanes.sort(key=lambda lane: (not (lane.is_silent and (lane.ready or lane.name == CONTROL_LANE)), lane.name))
    return lanes, slots_of


def _leaders(now: datetime) -> tuple[Leader, ...]:
    until = dict(Lease.objects.filter(name__in=("beat", "reconciler")).values_list("name", "expires_at"))
    return tuple(Leader(name, name in until and until[name] > now) for name in ("beat", "reconciler"))
