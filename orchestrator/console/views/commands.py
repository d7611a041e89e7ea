"""What a person asks of a run: each command has a page that says what will happen, and does it when it is confirmed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.http import urlencode

from orchestrator.console.pages import ConsolePage, may
from orchestrator.errors import InvalidRequest, UpbeatError
from orchestrator.models import JobRun, TaskRun
from orchestrator.services import previews, runs, steering
from orchestrator.services.idempotency import rerun_of_form
from orchestrator.services.previews import Preview

#: Ids beyond are no ids: the database would refuse them with an error of its own.
LARGEST_ID: Final = 2**63 - 1
#: Tasks that one page may name: more are chosen by running again from the start.
MOST_TASKS: Final = 1_000
LONGEST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says beside the run and the command."""

    tasks: tuple[str, ...]
    start: steering.Start
    #: Task → succeeded or skipped, in a re-run.
    mark: Mapping[str, str]
    by: str
    reason: str
    #: Of the form that was sent: the same form starts one run, however often it arrives.
    form_key: str


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did: the words for it, and the run whose page tells the rest."""

    said: str
    run_id: int
    is_news: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """One command on a run: its words, what it would do, and what does it."""

    title: str
    #: On the button that confirms it, and on the one that does not.
    button: str
    icon: str
    preview: Callable[[JobRun, Asked], Preview]
    perform: Callable[[JobRun, Asked], list[Done]]
    #: It ends something that nothing brings back.
    is_grave: bool = False
    has_tasks: bool = False


class CommandConverter:
    """The commands in addresses; any other word is none of these pages."""

    regex = "cancel|pause|resume|rerun|skip|mark-succeeded"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class CommandPage(ConsolePage):
    """`/admin/runs/<id>/<command>/`, with `?task=` for skip, mark-succeeded and rerun.

    GET says what would happen, POST does it and leads to the run. A re-run takes `from` (failed, start, tasks) and
    `mark=succeeded:<task>` or `skipped:<task>` too.
    """

    template_name: ClassVar[str] = "console/command.html"
    permission: ClassVar[str] = "orchestrator.steer_jobrun"

    @cached_property
    def run(self) -> JobRun:
        run_id: int = self.kwargs["run_id"]
        rows = JobRun.objects.select_related("job", "version").defer("version__spec", "version__source", "event")
        run = rows.filter(pk=run_id).first() if run_id <= LARGEST_ID else None
        if run is None:
            raise Http404(f"There is no run {run_id}.")
        return run

    @property
    def command(self) -> Command:
        return COMMANDS[self.kwargs["command"]]

    def subject(self) -> JobRun:
        return self.run

    def may_see(self, request: HttpRequest) -> bool:
        # Who may not even see the run learns nothing of it.
        if not may(request, "orchestrator.view_jobrun", self.run):
            raise Http404(f"There is no run {self.run.pk}.")
        return super().may_see(request)

    def page_title(self) -> str:
        return f"{self.command.title}: {self.run.job.name} #{self.run.pk}"

    def context(self) -> dict[str, Any]:
        asked = asked_by(self.request, self.request.GET if self.request.method == "GET" else self.request.POST)
        return self.shown(asked)

    def shown(self, asked: Asked, *, problem: str = "") -> dict[str, Any]:
        try:
            preview = self.command.preview(self.run, asked)
        except InvalidRequest as error:
            told = "; ".join(f"{detail.value}: expected {detail.expected}" for detail in error.details)
            preview = Preview(refusal=error.message + (f" {told}." if told else ""))
        run_url = run_page(self.run.pk)
        context: dict[str, Any] = {
            "run": self.run,
            "run_url": run_url,
            "command": self.command,
            "command_name": self.kwargs["command"],
            "preview": preview,
            "problem": problem,
            "asked": asked,
            "marks": [f"{state}:{name}" for name, state in asked.mark.items()],
            "form_key": secrets.token_urlsafe(12),
            "longest_reason": LONGEST_REASON,
        }
        if preview.instead:
            state = "skipped" if self.kwargs["command"] == "skip" else "succeeded"
            marks = [("mark", f"{state}:{name}") for name in asked.tasks]
            context["instead_url"] = command_page(self.run.pk, "rerun", [("from", "failed"), *marks])
        if self.kwargs["command"] == "rerun":
            start = asked.start if isinstance(asked.start, str) else "tasks"
            context["start"] = start
            context["choices"] = previews.tasks_of_run(self.run.pk)
            context["chosen"] = set(asked.tasks)
        return context

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        asked = asked_by(request, request.POST)
        try:
            done = self.command.perform(self.run, asked)
        except UpbeatError as error:
            del self.run  # as it is now
            return self.rendered({"page": self, **self.shown(asked, problem=error.message)})
        for one in done:
            messages.add_message(request, messages.SUCCESS if one.is_news else messages.WARNING, one.said)
        return HttpResponseRedirect(run_page(done[0].run_id if done else self.run.pk))


def run_page(run_id: int) -> str:
    """Return the address of a run's page."""
    return reverse("admin:console_run", args=[run_id])


def command_page(run_id: int, command: str, query: list[tuple[str, str]] | None = None) -> str:
    """Return the address of the page that says what a command would do to a run."""
    url = reverse("admin:console_command", args=[run_id, command])
    return f"{url}?{urlencode(query)}" if query else url


def asked_by(request: HttpRequest, given: Any) -> Asked:
    """Read what a request says; what it says wrongly is left to the command, which refuses it in words."""
    tasks = tuple(dict.fromkeys(name[:200] for name in given.getlist("task")[:MOST_TASKS]))
    word = given.get("from", "tasks" if tasks else "failed")[:20]
    mark: dict[str, str] = {}
    for text in given.getlist("mark")[:MOST_TASKS]:
        state, _, name = text.partition(":")
        mark[name[:200]] = state[:20]
    return Asked(
        tasks=tasks,
        start=tasks if word == "tasks" else word,
        mark=mark,
        by=f"user:{request.user.get_username()}",
        reason=given.get("reason", "").replace("\x00", "").strip()[:LONGEST_REASON],
        form_key=given.get("form_key", "")[:100],
    )


def _cancel(run: JobRun, asked: Asked) -> list[Done]:
    ended = runs.cancel_run(run.pk, by=asked.by, reason=asked.reason)
    said = "cancelled" if ended.ended_at else "asked to stop; it ends with its running tasks"
    return [Done(f"Run {run.pk}: {said}.", run.pk)]


def _pause(run: JobRun, asked: Asked) -> list[Done]:
    runs.pause_run(run.pk, by=asked.by, reason=asked.reason)
    return [Done(f"Run {run.pk}: paused.", run.pk)]


def _resume(run: JobRun, asked: Asked) -> list[Done]:
    runs.resume_run(run.pk, by=asked.by, reason=asked.reason)
    return [Done(f"Run {run.pk}: resumed.", run.pk)]


def _rerun(run: JobRun, asked: Asked) -> list[Done]:
    started = rerun_of_form(
        form_key=asked.form_key, run_id=run.pk, start=asked.start, mark=asked.mark, by=asked.by, reason=asked.reason
    )
    if not started.created:
        return [Done(f"This form had already started run {started.run.pk}; no other one was started.",
                     started.run.pk, is_news=False)]  # fmt: skip
    return [Done(f"Run {run.pk} runs again as run {started.run.pk}.", started.run.pk)]


def _skip(run: JobRun, asked: Asked) -> list[Done]:
    return _close(run, asked, steering.skip_task, "skipped")


def _mark(run: JobRun, asked: Asked) -> list[Done]:
    return _close(run, asked, steering.mark_task, "marked as succeeded")


def _close(run: JobRun, asked: Asked, close: Callable[..., TaskRun], word: str) -> list[Done]:
    rows = TaskRun.objects.filter(run=run, task__name__in=asked.tasks).order_by("position")
    found = dict(rows.values_list("task__name", "pk"))
    unknown = [name for name in asked.tasks if name not in found]
    if unknown or not found:
        raise InvalidRequest(f"The run has no task {unknown[0][:63]!r}." if unknown else "No task was named.")
    if len(found) == 1:
        # A refusal of the only one is shown on the page, where what else to do stands too.
        name, pk = next(iter(found.items()))
        close(pk, by=asked.by, reason=asked.reason)
        return [Done(f"{name}: {word}.", run.pk)]
    done = []
    for name, pk in found.items():
        try:
            close(pk, by=asked.by, reason=asked.reason)
        except UpbeatError as error:
            done.append(Done(f"{name}: {error.message}", run.pk, is_news=False))
        else:
            done.append(Done(f"{name}: {word}.", run.pk))
    return done


COMMANDS: Final[Mapping[str, Command]] = {
    "cancel": Command(
        "Cancel", "Cancel the run", "cancel", lambda run, asked: previews.preview_cancel(run.pk), _cancel, is_grave=True
    ),
    "pause": Command(
        "Pause", "Pause the run", "pause_circle", lambda run, asked: previews.preview_pause(run.pk), _pause
    ),
    "resume": Command(
        "Resume", "Resume the run", "play_circle", lambda run, asked: previews.preview_resume(run.pk), _resume
    ),
    "rerun": Command(
        "Run again", "Start the new run", "replay",
        lambda run, asked: previews.preview_rerun(run.pk, start=asked.start, mark=asked.mark), _rerun, has_tasks=True,
    ),
    "skip": Command(
        "Skip", "Skip", "redo", lambda run, asked: previews.preview_skip(run.pk, asked.tasks), _skip,
        is_grave=True, has_tasks=True,
    ),
    "mark-succeeded": Command(
        "Mark as succeeded", "Mark as succeeded", "task_alt",
        lambda run, asked: previews.preview_mark(run.pk, asked.tasks), _mark, is_grave=True, has_tasks=True,
    ),
}  # fmt: skip
