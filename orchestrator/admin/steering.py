"""Actions that steer jobs, runs and tasks: a page asks whether and why, then each row says what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from orchestrator.admin.mixins import Ask, ReadOnlyAdmin, Steers, link
from orchestrator.models import Job, JobRun, TaskRun
from orchestrator.selectors.jobs import status_of
from orchestrator.services import jobs, previews, runs, steering
from orchestrator.services.previews import Preview

#: Rows of which the page tells what would happen; beyond, it names them only.
FORESEEN: Final = 20


#: An archived job is gone for those who start it: that is for who may define it.
DEFINES: Final = "orchestrator.change_job"


class SteersJobs(Steers, ReadOnlyAdmin):
    """Pause, resume, archive, restore."""

    steering_permission = "orchestrator.steer_job"
    actions: Any = ("pause", "resume", "archive", "restore")

    def has_define_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.allows(request, "change")

    @admin.action(description="Pause the chosen jobs", permissions=["operate"])
    def pause(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        return self._jobs(
            request, chosen, jobs.pause_job, "paused", action="pause", question="Pause these jobs?",
            consequence="New runs stay pending until the job is resumed; running ones go on.",
        )  # fmt: skip

    @admin.action(description="Resume the chosen jobs", permissions=["operate"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        return self._jobs(
            request, chosen, jobs.resume_job, "resumed", action="resume", question="Resume these jobs?",
            consequence="Runs that were held are let in, as far as the job's concurrency allows.",
        )  # fmt: skip

    @admin.action(description="Archive the chosen jobs", permissions=["define"])
    def archive(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        return self._jobs(
            request, chosen, jobs.archive_job, "archived", action="archive", permission=DEFINES, question="Archive these jobs?",
            consequence="They start no more runs, and their runs cannot be run again; running ones go on.",
        )  # fmt: skip

    @admin.action(description="Restore the chosen jobs", permissions=["define"])
    def restore(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        return self._jobs(
            request, chosen, jobs.restore_job, "restored", action="restore", permission=DEFINES, question="Restore these jobs?",
            consequence="They may start runs again; one that was paused before is paused still.",
        )  # fmt: skip

    def _jobs(
        self, request: HttpRequest, chosen: QuerySet[Job], command: Callable[..., Job], done: str, **page: Any
    ) -> HttpResponse | None:
        def ask(job: Job, by: str, reason: str) -> str:
            command(job, by=by, reason=reason)
            return done

        def foreseen(found: Sequence[Job]) -> list[tuple[str, Preview]]:
            return [(job.name, _foresee_job(job, page["action"])) for job in found[:FORESEEN]]

        return self.steer(request, chosen.order_by("name"), ask, named=lambda job: job.name, foreseen=foreseen, **page)


class SteersRuns(Steers, ReadOnlyAdmin):
    """Cancel, pause, resume, run again."""

    actions: Any = ("cancel", "pause", "resume", "rerun_failed", "rerun_whole")

    @admin.action(description="Cancel the chosen runs", permissions=["operate"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[JobRun]) -> HttpResponse | None:
        def ask(run: JobRun, by: str, reason: str) -> str:
            ended = runs.cancel_run(run.pk, by=by, reason=reason)
            return "cancelled" if ended.ended_at else "asked to stop; it ends with its running tasks"

        return self._runs(
            request, chosen, ask, foresee=previews.preview_cancel, action="cancel", question="Cancel these runs?",
            consequence="What does not run ends at once; running tasks are asked to stop.",
        )  # fmt: skip

    @admin.action(description="Pause the chosen runs", permissions=["operate"])
    def pause(self, request: HttpRequest, chosen: QuerySet[JobRun]) -> HttpResponse | None:
        def ask(run: JobRun, by: str, reason: str) -> str:
            runs.pause_run(run.pk, by=by, reason=reason)
            return "paused"

        return self._runs(
            request, chosen, ask, foresee=previews.preview_pause, action="pause", question="Pause these runs?",
            consequence="Running tasks go on; no further one starts until the run is resumed.",
        )  # fmt: skip

    @admin.action(description="Resume the chosen runs", permissions=["operate"])
    def resume(self, request: HttpRequest, chosen: QuerySet[JobRun]) -> HttpResponse | None:
        def ask(run: JobRun, by: str, reason: str) -> str:
            runs.resume_run(run.pk, by=by, reason=reason)
            return "resumed"

        return self._runs(
            request, chosen, ask, foresee=previews.preview_resume, action="resume", question="Resume these runs?",
            consequence="Their tasks that are ready start.",
        )  # fmt: skip

    @admin.action(description="Run again from what failed", permissions=["operate"])
    def rerun_failed(self, request: HttpRequest, chosen: QuerySet[JobRun]) -> HttpResponse | None:
        return self._runs(
            request, chosen, _run_again("failed"), foresee=_foresee_rerun("failed"), action="rerun_failed", question="Run these again from what failed?",
            consequence="Each becomes a new run, in which all that came to a good end is taken over.",
        )  # fmt: skip

    @admin.action(description="Run again from the start", permissions=["operate"])
    def rerun_whole(self, request: HttpRequest, chosen: QuerySet[JobRun]) -> HttpResponse | None:
        return self._runs(
            request, chosen, _run_again("start"), foresee=_foresee_rerun("start"), action="rerun_whole", question="Run these again from the start?",
            consequence="Each becomes a new run of the same version with the same parameters; every task runs.",
        )  # fmt: skip

    def _runs(
        self,
        request: HttpRequest,
        chosen: QuerySet[JobRun],
        ask: Ask[JobRun],
        *,
        foresee: Callable[[int], Preview],
        **page: Any,
    ) -> HttpResponse | None:
        rows = chosen.select_related("job").order_by("pk")

        def foreseen(found: Sequence[JobRun]) -> list[tuple[str, Preview]]:
            return [(_name_of(run), foresee(run.pk)) for run in found[:FORESEEN]]

        return self.steer(request, rows, ask, named=_name_of, foreseen=foreseen, **page)


class SteersTasks(Steers, ReadOnlyAdmin):
    """Skip, mark as succeeded, run again from here."""

    actions: Any = ("skip", "mark", "rerun_from")

    @admin.action(description="Skip the chosen tasks", permissions=["operate"])
    def skip(self, request: HttpRequest, chosen: QuerySet[TaskRun]) -> HttpResponse | None:
        def ask(row: TaskRun, by: str, reason: str) -> str:
            return steering.skip_task(row.pk, by=by, reason=reason).state

        return self._tasks(
            request, chosen, ask, foresee=previews.preview_skip, action="skip", question="Skip these tasks?",
            consequence="What needs their success is skipped too; it counts as no failure.",
        )  # fmt: skip

    @admin.action(description="Mark the chosen tasks as succeeded", permissions=["operate"])
    def mark(self, request: HttpRequest, chosen: QuerySet[TaskRun]) -> HttpResponse | None:
        def ask(row: TaskRun, by: str, reason: str) -> str:
            steering.mark_task(row.pk, by=by, reason=reason)
            return "marked as succeeded"

        return self._tasks(
            request, chosen, ask, foresee=previews.preview_mark, action="mark", question="Mark these tasks as succeeded?",
            consequence="What waits for them goes on, as if they had succeeded without a result.",
        )  # fmt: skip

    @admin.action(description="Run again from the chosen tasks", permissions=["operate"])
    def rerun_from(self, request: HttpRequest, chosen: QuerySet[TaskRun]) -> HttpResponse | None:
        names: dict[int, list[str]] = {}
        for run_id, name in chosen.order_by("run_id", "position").values_list("run_id", "task__name"):
            names.setdefault(run_id, []).append(name)
        if "confirmed" not in request.POST:
            return self._tasks(
                request, chosen, lambda row, by, reason: "", foresee=_foresee_rerun_from, action="rerun_from",
                question="Run again from these tasks?",
                consequence="Their run becomes a new run, in which they and all that follows them run again.",
            )  # fmt: skip
        of = JobRun.objects.filter(pk__in=names).select_related("job").order_by("pk")
        return self.steer(
            request,
            of,
            lambda run, by, reason: _run_again(names[run.pk])(run, by, reason),
            action="rerun_from",
            question="",
            consequence="",
            named=_name_of,
        )

    def _tasks(
        self,
        request: HttpRequest,
        chosen: QuerySet[TaskRun],
        ask: Ask[TaskRun],
        *,
        foresee: Callable[[int, list[str]], Preview],
        **page: Any,
    ) -> HttpResponse | None:
        rows = chosen.select_related("task", "run__job").order_by("pk")

        def foreseen(found: Sequence[TaskRun]) -> list[tuple[str, Preview]]:
            # All of one run together: what one of them closes another may not start.
            by_run: dict[int, list[TaskRun]] = {}
            for row in found:
                by_run.setdefault(row.run_id, []).append(row)
            return [
                (_name_of(rows[0].run), foresee(run_id, [row.task.name for row in rows]))
                for run_id, rows in list(by_run.items())[:FORESEEN]
            ]

        return self.steer(
            request, rows, ask, named=lambda row: f"{_name_of(row.run)} {row.task.name}", foreseen=foreseen, **page
        )


def _name_of(run: JobRun) -> str:
    return f"{run.job.name} #{run.pk}"


def _foresee_rerun(start: steering.Start) -> Callable[[int], Preview]:
    return lambda run_id: previews.preview_rerun(run_id, start=start, mark={})


def _foresee_rerun_from(run_id: int, names: list[str]) -> Preview:
    return previews.preview_rerun(run_id, start=names, mark={})


def _foresee_job(job: Job, action: str) -> Preview:
    """Say what would become of a job's runs."""
    open_runs = status_of(job).open_runs
    count = f"{open_runs or 'no'} open run{'' if open_runs == 1 else 's'}"
    standing = jobs.standing_of(job)
    if action == "pause" and job.paused_at is not None:
        return Preview(refusal="It is paused already.")
    if action == "resume" and job.paused_at is None:
        return Preview(refusal="It is not paused.")
    if action == "archive" and standing == "archived":
        return Preview(refusal="It is archived already.")
    if action == "restore" and standing != "archived":
        return Preview(refusal="It is not archived.")
    return Preview((f"It is {standing} and has {count}.",))


def _run_again(start: steering.Start) -> Ask[JobRun]:
    def ask(run: JobRun, by: str, reason: str) -> SafeString:
        made = steering.rerun(run.pk, start=start, by=by, reason=reason)
        return format_html("run again as {}", link(made, f"#{made.pk}"))

    return ask
