"""The ledger: runs, their task runs, attempts and transitions. To look at, and to steer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.contrib import admin
from django.db.models import Min, Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from orchestrator.admin.filters import Chosen, period, typed, words_filter
from orchestrator.admin.lists import LooksAtTheNewest, is_list, numbers_in
from orchestrator.admin.logs import ShowsAttempts, ShowsLog
from orchestrator.admin.mixins import (
    STATE_COLOURS,
    LedgerAdmin,
    TenantFilter,
    as_json,
    clipped,
    duration,
    link,
    list_link,
    moment,
    roomy,
    state_word,
)
from orchestrator.admin.steering import SteersRuns, SteersTasks
from orchestrator.admin.waiting import reasons_shown
from orchestrator.models import (
    ApiToken,
    Attempt,
    Connection,
    Job,
    JobRun,
    Lock,
    Secret,
    TaskRun,
    Transition,
)
from orchestrator.selectors.waiting import why_waiting_run, why_waiting_task
from orchestrator.services import access
from orchestrator.states import TASK_OPEN, AttemptState, RunState, TaskState

#: What a transition is about, by its word. The fact outlives its subject: a link may lead to nothing.
SUBJECTS: Mapping[str, type[Model]] = {
    "run": JobRun,
    "task_run": TaskRun,
    "attempt": Attempt,
    "job": Job,
    "lock": Lock,
    "secret": Secret,
    "connection": Connection,
    "token": ApiToken,
}


#: Those that belong to no run.
OTHER_SUBJECTS: Final = frozenset({*SUBJECTS, "rule", "source"} - {"run", "task_run", "attempt"})


class StartedBy(admin.SimpleListFilter):
    """How runs came to be."""

    title = "trigger"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("event", "event"), ("api", "API"), ("cli", "command line"), ("manual", "by hand"),
                ("schedule", "schedule"), ("message", "message"), ("rerun", "run again")]  # fmt: skip

    def queryset(self, request: HttpRequest, queryset: QuerySet[JobRun]) -> QuerySet[JobRun]:
        if not self.value():
            return queryset
        return queryset.filter(Q(trigger__kind=self.value()) | Q(trigger__type=self.value()))


def _once(row: Any, ask: Callable[[], SafeString]) -> SafeString:
    """Ask why a row waits once for a page, which shows it more than once; the row lives no longer than it."""
    if not hasattr(row, "why_it_waits"):
        row.why_it_waits = ask()
    found: SafeString = row.why_it_waits
    return found


def _jobs_named(term: str) -> list[int]:
    return list(Job.objects.filter(name=term).values_list("pk", flat=True))


def _any(**values: list[int]) -> Q:
    """Return the condition that a column has one of its values; what has none is left out, and without any: nothing."""
    chosen = Q()
    for column, among in values.items():
        if among:
            chosen |= Q(**{f"{column}__in": among})
    return chosen or Q(pk__in=[])


class _Searched(LooksAtTheNewest, LedgerAdmin):
    """Lists that are searched by whole values alone: each has its index, a part of one would read every row."""

    def found_by(self, term: str) -> Q:
        """Return the condition that a search means."""
        return _any(pk=numbers_in(term))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(self.found_by(term)) if term else queryset), False


class _OfRuns(_Searched):
    """Lists of what belongs to runs: bounded by runs, in whose order they are read."""

    looked_at = 4000
    looked_through = "runs"
    #: The column that names the run.
    run_path = "run_id"

    def newest(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        tenants = access.tenants_by_permission(request.user, "orchestrator.view_jobrun")
        runs = access.scoped(JobRun.objects.order_by("-pk"), tenants).values_list("pk", flat=True)
        oldest = runs[self.looked_at : self.looked_at + 1].first()
        return rows.filter(**{f"{self.run_path}__gt": oldest}) if oldest else rows


class _Subject(_Searched):
    """What runs, task runs and attempts show alike."""

    @display(description="State", label=STATE_COLOURS)
    def state_label(self, row: Any) -> str:
        return state_word(row.state)

    @admin.display(description="Reason")
    def reason_shown(self, row: Any) -> str:
        return clipped(row.reason)

    @admin.display(description="Worker")
    def worker_shown(self, row: Any) -> str:
        return clipped(row.worker, rem=8)

    @admin.display(description="Started")
    def started(self, row: Any) -> str:
        return moment(row.started_at)

    @admin.display(description="Ended")
    def ended(self, row: Any) -> str:
        return moment(row.ended_at)

    @admin.display(description="Took")
    def took(self, row: Any) -> str:
        return duration(row.started_at, row.ended_at)


@admin.register(JobRun)
class JobRunAdmin(_Subject, SteersRuns):
    list_display = ("run", "job_link", "state_label", "created", "took", "reason_shown", "trigger_kind")
    # The first column leads to the page of the run, and that one to its record.
    list_display_links = None
    list_filter = (
        words_filter("state", "state", RunState),
        ("job", Chosen),
        TenantFilter,
        period("created", path="created_at", shown_as="creation"),
        StartedBy,
        typed("by", paths=("trigger__by", "trigger__rule", "trigger__source"), shown_as="rule, source or person",
              help_text="Whole, such as token:ci"),
    )  # fmt: skip
    list_filter_submit = True
    unindexed = ("kind", "by")
    looked_at = 20_000
    empty_says = "Each execution of a job is shown here. Start one with the button of a job, with `manage.py trigger`, or by an event that a rule waits for."
    search_fields = ("pk",)
    search_help_text = "Number of a run, or the whole name of a job"
    list_select_related = ("job",)
    fields = (
        ("job_link", "version_number"),
        ("state_label", "reason"),
        "waiting",
        ("created", "started"),
        ("ended", "took"),
        ("trigger_shown", "trigger_key"),
        "event_link",
        "parameters_shown",
        ("logical_date", "priority"),
        ("paused_at", "paused_by", "pause_reason"),
        ("stop_requested_at", "stop_reason"),
        ("deadline_at", "rerun_of_link"),
        ("task_runs", "transitions"),
    )
    readonly_fields = (
        "job_link",
        "version_number",
        "state_label",
        "waiting",
        "created",
        "started",
        "ended",
        "took",
        "trigger_shown",
        "event_link",
        "parameters_shown",
        "rerun_of_link",
        "task_runs",
        "transitions",
    )

    def found_by(self, term: str) -> Q:
        return _any(pk=numbers_in(term), job_id=_jobs_named(term))

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobRun]:
        # What the list does not show may be kilobytes in each row; versions are megabytes, of which a page shows a number.
        rows = super().get_queryset(request)
        if is_list(request):
            return rows.defer("event", "parameters")
        return rows.select_related("version").defer("version__spec", "version__source", "event")

    @admin.display(description="Run")
    def run(self, run: JobRun) -> str:
        return link(run, f"#{run.pk}")

    @admin.display(description="Job")
    def job_link(self, run: JobRun) -> str:
        return link(run.job)

    @admin.display(description="Version")
    def version_number(self, run: JobRun) -> str:
        return link(run.version, f"v{run.version.number}")

    @admin.display(description="Trigger")
    def trigger_kind(self, run: JobRun) -> str:
        trigger = run.trigger
        # What an event started says its type, and which rule or source it was.
        kind = str(trigger.get("kind") or trigger.get("type") or "")
        by = str(trigger.get("by") or trigger.get("rule") or trigger.get("source") or "")
        # `schedule · schedule:nightly` says it twice.
        shown = by if by.startswith(f"{kind}:") else " · ".join(filter(None, (kind, by)))
        return clipped(shown, rem=8)

    @admin.display(description="Why it waits")
    def waiting(self, run: JobRun) -> str:
        return _once(run, lambda: reasons_shown(why_waiting_run(run.pk)))

    @admin.display(description="Created")
    def created(self, run: JobRun) -> str:
        return moment(run.created_at)

    @admin.display(description="Trigger")
    def trigger_shown(self, run: JobRun) -> str:
        return as_json({key: value for key, value in run.trigger.items() if key != "fingerprint"})

    @admin.display(description="Event")
    def event_link(self, run: JobRun) -> SafeString | str:
        if run.event_id is None:
            return "–"
        # By name: the triggers' own pages, which this package does not know.
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">#{}</a> · '
            '<a class="text-primary-600 dark:text-primary-500" href="{}?job_run_id__exact={}">why it fired</a>',
            reverse("admin:triggers_event_change", args=[run.event_id]),
            run.event_id,
            reverse("admin:triggers_firing_changelist"),
            run.pk,
        )

    @admin.display(description="Parameters")
    def parameters_shown(self, run: JobRun) -> str:
        return as_json(run.parameters)

    @admin.display(description="Re-run of")
    def rerun_of_link(self, run: JobRun) -> str:
        return link(JobRun(pk=run.rerun_of_id), f"#{run.rerun_of_id}") if run.rerun_of_id else "–"

    @admin.display(description="Task runs")
    def task_runs(self, run: JobRun) -> str:
        return list_link(TaskRun, "Show the task runs", run__id__exact=run.pk)

    @admin.display(description="Transitions")
    def transitions(self, run: JobRun) -> str:
        return list_link(Transition, "Show what happened", run_id__exact=run.pk)


@admin.register(TaskRun)
class TaskRunAdmin(ShowsAttempts, _OfRuns, _Subject, SteersTasks):
    list_display = (
        "task_name",
        "run_link",
        "state_label",
        "attempts_link",
        "started",
        "took",
        "reason_shown",
        "worker_shown",
    )
    list_display_links = ("task_name",)
    list_filter = (
        words_filter("state", "state", TaskState),
        ("run__job", Chosen),
        TenantFilter,
        period("created", path="run__created_at", shown_as="creation of the run", rows_of=JobRun, key="run_id"),
        typed("lane", paths=("task__pool",), shown_as="lane", help_text="Its whole name"),
        typed("worker", paths=("worker",), shown_as="worker", help_text="Its whole name"),
    )
    list_filter_submit = True
    unindexed = ("lane", "worker")
    empty_says = "Each task of each run is shown here, from the moment in which its run is let in."
    search_fields = ("pk",)
    search_help_text = "Number of a run or of a task run, or the whole name of a job"
    list_select_related = ("task", "run__job")
    exclude = ("result",)
    readonly_fields = (
        "run_link",
        "task_name",
        "state_label",
        "waiting",
        "result_shown",
        "attempts_shown",
        "newest_log",
        "run_page",
        "transitions",
    )

    def found_by(self, term: str) -> Q:
        numbers = numbers_in(term)
        return _any(pk=numbers, run_id=numbers, run__job_id=_jobs_named(term))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # Newest run first, each in the order of its DAG: an index has that order, also for the runs of one job or tenant.
        return ("-run_id", "position")

    def get_fields(self, request: HttpRequest, obj: TaskRun | None = None) -> tuple[Any, ...]:
        return (
            ("task_name", "run_link", "run_page"),
            ("state_label", "reason"),
            "waiting",
            "attempts_shown",
            "newest_log",
            ("ready_at", "started_at"),
            ("ended_at", "due_at"),
            ("attempt_count", "lost_count"),
            ("worker", "fencing_token"),
            ("lease_until", "deadline_at"),
            ("open_upstreams", "planned_at"),
            ("hint_count", "hint_published_at"),
            ("stop_requested_at", "stop_reason"),
            "result_shown",
            "result_ref",
            "transitions",
        )

    @admin.display(description="Task")
    def task_name(self, row: TaskRun) -> str:
        return row.task.name

    @admin.display(description="Run")
    def run_link(self, row: TaskRun) -> str:
        return link(row.run, f"{row.run.job.name} #{row.run_id}")

    @admin.display(description="Why it waits")
    def waiting(self, row: TaskRun) -> str:
        return _once(row, lambda: reasons_shown(why_waiting_task(row.pk)))

    @admin.display(description="Attempts")
    def attempts_link(self, row: TaskRun) -> str:
        return list_link(Attempt, str(row.attempt_count), task_run__id__exact=row.pk) if row.attempt_count else "–"

    @admin.display(description="Transitions")
    def transitions(self, row: TaskRun) -> str:
        # With the run, by which the index finds it.
        chosen = {"run_id__exact": row.run_id, "subject__exact": "task_run", "subject_id__exact": row.pk}
        return list_link(Transition, "Show what happened", **chosen)

    @admin.display(description="Result")
    def result_shown(self, row: TaskRun) -> str:
        return as_json(row.result)


class AttemptStates(words_filter("state", "state", AttemptState)):  # type: ignore[misc]
    """Those that run are found by their task runs: they have an index, and no attempt that succeeds is ever in one."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Attempt]) -> QuerySet[Attempt]:
        rows: QuerySet[Attempt] = super().queryset(request, queryset)
        return rows.filter(task_run__state__in=sorted(TASK_OPEN)) if self.value() == AttemptState.RUNNING else rows


@admin.register(Attempt)
class AttemptAdmin(ShowsLog, _OfRuns, _Subject):
    run_path = "task_run__run_id"
    list_display = (
        "number_shown",
        "task_run_link",
        "state_label",
        "started",
        "took",
        "exit_code",
        "reason_shown",
        "worker_shown",
    )
    list_display_links = ("number_shown",)
    list_filter = (
        AttemptStates,
        ("task_run__run__job", Chosen),
        TenantFilter,
        period(
            "created",
            path="task_run__run__created_at",
            shown_as="creation of the run",
            rows_of=JobRun,
            key="task_run__run_id",
        ),
        typed("worker", paths=("worker",), shown_as="worker", help_text="Its whole name"),
    )
    list_filter_submit = True
    unindexed = ("worker",)
    # The order of runs and tasks, for which there are indexes from every side.
    ordering = ("-task_run__run_id", "task_run__position", "-number")
    empty_says = "Each try of a worker at a task is shown here."
    search_fields = ("pk",)
    search_help_text = "Number of an attempt, of a task run or of a run"
    list_select_related = ("task_run__task", "task_run__run__job")
    readonly_fields = ("task_run_link", "run_page", "state_label", "started", "ended", "took", "log_shown")
    fields = (
        ("task_run_link", "run_page"),
        ("state_label", "reason"),
        "log_shown",
        ("number", "token"),
        ("exit_code", "failure_kind"),
        ("started", "ended", "took"),
        "worker",
    )

    def found_by(self, term: str) -> Q:
        numbers = numbers_in(term)
        of_run = list(TaskRun.objects.filter(run_id__in=numbers).values_list("pk", flat=True))
        return _any(pk=numbers, task_run_id=[*numbers, *of_run])

    @admin.display(description="Attempt")
    def number_shown(self, row: Attempt) -> str:
        return f"{row.number}"

    @admin.display(description="Task run")
    def task_run_link(self, row: Attempt) -> str:
        run = row.task_run.run
        return link(row.task_run, f"{run.job.name} #{run.pk} {row.task_run.task.name}")


@admin.register(Transition)
class TransitionAdmin(_OfRuns):
    """Facts. Who may look into some tenants alone sees those of runs, newest run first, or those of one other subject.

    All facts by time would have to be read until some of a tenant with few runs came.
    """

    looked_at = 2000
    list_display = (
        "at_shown",
        "subject_shown",
        "run_shown",
        "from_shown",
        "to_label",
        "reason_shown",
        "cause",
        "by_shown",
    )
    list_display_links = ("at_shown",)
    list_filter = (
        words_filter("subject", "subject", ("run", "task_run", "attempt", *sorted(OTHER_SUBJECTS))),
        words_filter("to_state", "state", sorted({*RunState, *TaskState, *AttemptState})),
        period("at", path="at", shown_as="time"),
        typed("by", paths=("by",), shown_as="person, token or worker", help_text="Whole, such as user:ada"),
    )
    list_filter_submit = True
    unindexed = ("subject", "to_state", "by")
    empty_says = (
        "What happened to runs, tasks, jobs, locks and secrets is shown here: who or what moved them, when and why."
    )
    search_fields = ("run_id",)
    search_help_text = "Number of a run"

    def found_by(self, term: str) -> Q:
        return _any(run_id=numbers_in(term))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transition]:
        tenants = self._tenants(request)
        if not is_list(request) or tenants is None:
            return super().get_queryset(request)
        if self._subject(request) in OTHER_SUBJECTS:
            # That there is no run is what the index of other subjects is about.
            return super().get_queryset(request).filter(run_id__isnull=True)
        # The same as the rule of all pages says of facts of runs, in the words that let them be read run by run.
        runs = access.scoped(JobRun.objects.all(), tenants)
        rows = Transition.objects.filter(run_id__in=runs.values("pk")).order_by(*self.get_ordering(request))
        return self.newest(request, rows) if self._is_bounded(request) else rows

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        if self._tenants(request) is None or self._subject(request) in OTHER_SUBJECTS:
            return ("-pk",)
        return ("-run_id", "-pk")

    def newest(self, request: HttpRequest, rows: QuerySet[Transition]) -> QuerySet[Transition]:
        if self._subject(request) in OTHER_SUBJECTS:
            # They are few, and have their index.
            return rows.filter(run_id__isnull=True)
        if self._tenants(request) is not None:
            return super().newest(request, rows)
        # All facts since those runs began, in their own order.
        oldest = (
            JobRun.objects.order_by("-pk").values_list("pk", flat=True)[self.looked_at : self.looked_at + 1].first()
        )
        first = Transition.objects.filter(run_id=oldest).aggregate(first=Min("pk"))["first"] if oldest else None
        return rows.filter(pk__gte=first) if first else rows

    def _tenants(self, request: HttpRequest) -> frozenset[int] | None:
        return access.tenants_by_permission(request.user, "orchestrator.view_transition")

    def _subject(self, request: HttpRequest) -> str:
        return request.GET.get("subject") or request.GET.get("subject__exact") or ""

    @admin.display(description="At")
    def at_shown(self, row: Transition) -> str:
        return moment(row.at)

    @admin.display(description="Subject")
    def subject_shown(self, row: Transition) -> str:
        text = f"{row.subject.replace('_', ' ')} {row.subject_id}"
        model = SUBJECTS.get(row.subject)
        return link(model(pk=row.subject_id), text) if model and self.admin_site.is_registered(model) else text

    @admin.display(description="Run")
    def run_shown(self, row: Transition) -> str:
        return link(JobRun(pk=row.run_id), f"#{row.run_id}") if row.run_id else "–"

    @admin.display(description="From")
    def from_shown(self, row: Transition) -> str:
        return state_word(row.from_state) or "–"

    @display(description="To", label=STATE_COLOURS)
    def to_label(self, row: Transition) -> str:
        return state_word(row.to_state)

    @admin.display(description="Reason")
    def reason_shown(self, row: Transition) -> str:
        return clipped(row.reason)

    @admin.display(description="By")
    def by_shown(self, row: Transition) -> str:
        return roomy(row.by) or "–"
