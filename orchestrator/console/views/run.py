"""The page of one run: what fails, what it waits for, and what to do about it."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any, Final

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.views.decorators.gzip import gzip_page

from orchestrator.console import drawing
from orchestrator.console.pages import ConsolePage, is_refresh, may
from orchestrator.console.statuses import letters
from orchestrator.console.story import FAILING, NAMED, TaskFact, shares, story_of
from orchestrator.models import JobRun, JobVersion, TaskRun
from orchestrator.selectors import graph
from orchestrator.selectors import runs as run_selectors
from orchestrator.selectors.waiting import WaitReason, why_waiting_run, why_waiting_task
from orchestrator.states import RUN_FINAL, TASK_FINAL, TASK_IDLE, RunState, TaskState

#: Transitions that one refresh follows; more are left to the next one, which is asked for at once.
MOST_CHANGES: Final = 250
#: Positions that a browser may ask for because its copy differs.
MOST_NEEDED: Final = 200
#: Neighbours of a task that its panel names.
MOST_NEIGHBOURS: Final = 30
#: A version of more tasks is not loaded to show the definition of one.
LARGEST_SHOWN: Final = 2_000
TRANSITIONS: Final = 100
#: Ids beyond are no ids: the database would refuse them with an error of its own.
LARGEST_ID: Final = 2**63 - 1
#: What the engine keeps in a trigger for itself.
PRIVATE: Final = frozenset({"fingerprint", "copies"})

_LIGHT = ("version__spec", "version__source", "event")


class OfRun(ConsolePage):
    """Base of what is about one run: seen by who may see the run."""

    permission = "orchestrator.view_jobrun"

    @cached_property
    def run(self) -> JobRun:
        run_id: int = self.kwargs["run_id"]
        runs = JobRun.objects.select_related("job", "version").defer(*_LIGHT)
        run = runs.filter(pk=run_id).first() if run_id <= LARGEST_ID else None
        if run is None:
            raise Http404("There is no such run.")
        return run

    def subject(self) -> JobRun:
        return self.run

    def may_see(self, request: HttpRequest) -> bool:
        # Who may not see a run does not learn that there is one.
        if may(request, self.permission) and not super().may_see(request):
            raise Http404("There is no such run.")
        return super().may_see(request)

    @property
    def may_steer(self) -> bool:
        return may(self.request, "orchestrator.steer_jobrun", self.run)


class RunPage(OfRun):
    template_name = "console/run.html"
    live_template = "console/run/live.html"
    every = 2.0

    def page_title(self) -> str:
        return f"Run #{self.run.pk} of {self.run.job.name}"

    @cached_property
    def cursor(self) -> int | None:
        """Up to where the browser knows the run; None for one that knows nothing."""
        given = self.request.GET.get("cursor", "")
        return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None

    @cached_property
    def change(self) -> graph.Change:
        # Before any state is read: what happens meanwhile is told twice, and never left out.
        if self.cursor is None:
            return graph.Change(graph.last_transition(self.run.pk), frozenset(), False)
        return graph.changed_since(self.run.pk, self.cursor, limit=MOST_CHANGES)

    @cached_property
    def states(self) -> list[str]:
        return graph.states_of_tasks(self.run.pk)

    def context(self) -> dict[str, Any]:
        change, run = self.change, self.run
        counts = Counter(self.states)
        failing = self._facts(FAILING) if any(counts[state] for state in FAILING) else []
        retrying = self._facts((TaskState.RETRY_WAITING,)) if counts[TaskState.RETRY_WAITING] else []
        story = story_of(
            state=run.state,
            reason=run.reason,
            is_paused=run.paused_at is not None,
            is_stopping=run.stop_requested_at is not None,
            counts=counts,
            failing=failing,
            retrying=retrying,
        )
        return {
            "run": run,
            "story": story,
            "shares": shares(self.states, run.version.task_count),
            "task_count": run.version.task_count,
            "reasons": self.reasons(),
            "is_final": run.state in RUN_FINAL,
            "may_steer": self.may_steer,
            "actions": self.actions(),
            "change": change,
        }

    def reasons(self) -> tuple[WaitReason, ...]:
        if self.run.state in RUN_FINAL:
            return ()
        # The counts by state stand below, with their colours.
        return tuple(reason for reason in why_waiting_run(self.run.pk) if reason.code != "tasks")

    def actions(self) -> list[tuple[str, str, str, bool]]:
        """Return words, address, icon and whether it is grave of each command that the run's state allows."""
        if not self.may_steer:
            return []
        run = self.run
        base = reverse("admin:console_run", args=[run.pk])
        if run.state in RUN_FINAL:
            return [
                ("Run again from the start", f"{base}rerun/?from=start", "replay", False),
                *(
                    [("Run again from what failed", f"{base}rerun/?from=failed", "redo", False)]
                    if run.state != RunState.SUCCEEDED
                    else []
                ),
            ]
        held = run.paused_at is not None
        return [
            ("Resume", f"{base}resume/", "play_circle", False)
            if held
            else ("Pause", f"{base}pause/", "pause_circle", False),
            *([] if run.stop_requested_at else [("Cancel the run", f"{base}cancel/", "cancel", True)]),
        ]

    def is_over(self, context: dict[str, Any]) -> bool:
        return self.run.state in RUN_FINAL and not self.change.is_more

    def news(self, context: dict[str, Any]) -> str:
        """Return what changed in the tasks since the browser's cursor; nothing if nothing did."""
        needed = self.needed()
        if self.cursor is not None and not self.change.task_run_ids and not needed and not self.is_over(context):
            return ""
        return render_to_string("console/run/delta.html", {"delta": self.delta(needed)})

    def needed(self) -> list[int]:
        given = [part for part in self.request.GET.get("need", "").split(",")[:MOST_NEEDED] if part.isdigit()]
        return [int(part) for part in given if len(part) < 10]

    def delta(self, needed: list[int]) -> dict[str, Any]:
        run_id = self.run.pk
        if self.cursor is None:
            rows = graph.task_rows(run_id)
        else:
            ids = set(self.change.task_run_ids)
            if needed:
                ids.update(TaskRun.objects.filter(run_id=run_id, position__in=needed).values_list("pk", flat=True))
            rows = graph.task_rows(run_id, ids) if ids else []
        return {
            "cursor": self.change.cursor,
            "more": self.change.is_more,
            # One letter a task: by it a browser finds what a late transaction wrote below its cursor.
            "states": letters(self.states),
            "rows": [drawing.compact(row) for row in rows],
        }

    def rendered(self, context: dict[str, Any]) -> HttpResponse:
        run = self.run
        base = reverse("admin:console_run", args=[run.pk])
        trigger = {key: value for key, value in run.trigger.items() if key not in PRIVATE}
        data = {
            "drawing": reverse("admin:console_drawing", args=[run.version_id, drawing.FORMAT]),
            "task": f"{base}tasks/",
            "legend": drawing.legend(),
            **self.delta([]),
        }
        reruns = JobRun.objects.filter(rerun_of=run).order_by("pk").values_list("pk", "state")
        return super().rendered(
            {
                **context,
                "run_data": data,
                "trigger": trigger,
                "chain": self.chain(trigger),
                "reruns": list(reruns[:10]),
            }
        )

    def chain(self, trigger: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return what led to the run, first cause first: kind, words, address (empty for none)."""
        run = self.run
        steps = []
        # By name: pages of the triggers, which this package does not know.
        if run.root_event_id and run.root_event_id != run.event_id:
            steps.append(("First event", f"#{run.root_event_id}", _admin("triggers_event_change", run.root_event_id)))
        if run.event_id:
            steps.append(("Event", f"#{run.event_id}", _admin("triggers_event_change", run.event_id)))
        rule = str(trigger.get("rule") or "")
        if rule:
            version = f" v{trigger['rule_version']}" if trigger.get("rule_version") else ""
            steps.append(
                ("Rule", f"{rule}{version}", _admin("triggers_triggerrule_changelist") + "?" + urlencode({"q": rule}))
            )
        if run.event_id:
            why = _admin("triggers_firing_changelist") + f"?job_run_id__exact={run.pk}"
            steps.append(("Firing", "why it fired", why))
        if run.rerun_of_id:
            steps.append(
                ("Run again", f"of run #{run.rerun_of_id}", reverse("admin:console_run", args=[run.rerun_of_id]))
            )
        if not steps:
            kind = str(trigger.get("kind") or trigger.get("type") or "unknown")
            by = str(trigger.get("by") or trigger.get("source") or "")
            steps.append(("Started", " by ".join(filter(None, (kind, by))), ""))
        steps.append(("This run", f"#{run.pk}", ""))
        return steps

    def _facts(self, states: tuple[TaskState, ...]) -> list[TaskFact]:
        rows = graph.worst_tasks(self.run.pk, states, NAMED)
        return [TaskFact(row.task.name, row.state, row.reason, row.due_at) for row in rows]


class TaskPanel(OfRun):
    """One task of a run, as the panel beside the DAG shows it."""

    template_name = "console/run/task.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not is_refresh(request):
            query = urlencode({"task": self.task_name()})
            return redirect(f"{reverse('admin:console_run', args=[self.run.pk])}?{query}")
        answer = render(request, self.template_name, self.context())
        answer["Cache-Control"] = "no-store"
        return answer

    def task_name(self) -> str:
        row = self.run.version.tasks.filter(position=self.kwargs["position"]).only("name").first()
        if row is None:
            raise Http404("There is no such task.")
        return row.name

    def context(self) -> dict[str, Any]:
        run, position = self.run, self.kwargs["position"]
        task = run.version.tasks.filter(position=position).first() if position < 2**31 else None
        if task is None:
            raise Http404("There is no such task.")
        row = TaskRun.objects.filter(run=run, position=position).select_related("task", "carried_from").first()
        attempts = run_selectors.attempts_of(row) if row is not None else []
        ups, downs = graph.neighbours(run.version_id, position, limit=MOST_NEIGHBOURS)
        around = {edge.upstream for edge in ups} | {edge.downstream for edge in downs}
        names = dict(run.version.tasks.filter(position__in=around).values_list("position", "name"))
        states = dict(TaskRun.objects.filter(run=run, position__in=around).values_list("position", "state"))
        is_open = row is not None and row.state not in TASK_FINAL
        return {
            "run": run,
            "task": task,
            "row": row,
            "state": row.state if row is not None else TaskState.WAITING,
            "attempts": attempts[::-1],
            "reasons": why_waiting_task(row.pk) if row is not None and is_open else (),
            "upstreams": [(names[e.upstream], states.get(e.upstream, TaskState.WAITING), e) for e in ups],
            "downstreams": [(names[e.downstream], states.get(e.downstream, TaskState.WAITING), e) for e in downs],
            "more_upstreams": task.upstream_count - len(ups),
            "more_downstreams": task.downstream_count - len(downs),
            "definition": self.definition(task.name),
            "base": reverse("admin:console_run", args=[run.pk]),
            "may_steer": self.may_steer,
            "may_close": row is not None and run.state == RunState.RUNNING and row.state in TASK_IDLE,
            "may_rerun": run.state in RUN_FINAL,
        }

    def definition(self, name: str) -> dict[str, Any] | None:
        """Return the task as the version defines it, without what is shown elsewhere; None for very large versions."""
        run = self.run
        if run.version.task_count > LARGEST_SHOWN:
            return None
        spec = JobVersion.objects.values_list("spec", flat=True).get(pk=run.version_id)
        found: dict[str, Any] = next((each for each in spec.get("tasks", ()) if each.get("name") == name), {})
        return {key: value for key, value in found.items() if key not in ("name", "type", "depends_on") and value}


class Transitions(OfRun):
    """What happened in a run, newest first, a page at a time."""

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        before = request.GET.get("before", "")
        rows, older = run_selectors.latest_transitions(
            self.run, before=int(before) if before.isdigit() and len(before) < 19 else None, limit=TRANSITIONS
        )
        names = dict(
            TaskRun.objects.filter(
                run=self.run, pk__in=[row.subject_id for row in rows if row.subject == "task_run"]
            ).values_list("pk", "task__name")
        )
        context = {
            "run": self.run,
            "rows": [(row, names.get(row.subject_id, "") if row.subject == "task_run" else "") for row in rows],
            "older": older,
        }
        answer = render(request, "console/run/transitions.html", context)
        answer["Cache-Control"] = "no-store"
        return answer


@method_decorator(gzip_page, name="dispatch")
class Drawing(ConsolePage):
    """The drawing of a version. Its address names version and format, so a browser asks for it once."""

    permission = "orchestrator.view_jobrun"

    @cached_property
    def version(self) -> JobVersion:
        version_id: int = self.kwargs["version_id"]
        versions = JobVersion.objects.select_related("job").only("pk", "job__tenant_id")
        version = versions.filter(pk=version_id).first() if version_id <= LARGEST_ID else None
        if version is None:
            raise Http404("There is no such version.")
        return version

    def subject(self) -> JobVersion:
        return self.version

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if self.kwargs["format"] != drawing.FORMAT:
            raise Http404("There is no such format.")
        answer = JsonResponse(drawing.drawing_of(self.version.pk), json_dumps_params={"separators": (",", ":")})
        answer["Cache-Control"] = "private, max-age=31536000, immutable"
        return answer


def _admin(name: str, *args: int) -> str:
    return reverse(f"admin:{name}", args=args)
