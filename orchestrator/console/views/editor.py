"""The editor of a job's definition: what is wrong stands at its line, what saving would change in words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from orchestrator.console.pages import ConsolePage, is_refresh, may
from orchestrator.console.views.commands import LARGEST_ID
from orchestrator.dag.problems import Problem, shown
from orchestrator.errors import UpbeatError
from orchestrator.models import Job, Tenant
from orchestrator.roles import Action
from orchestrator.selectors.jobs import version_of
from orchestrator.services import editing
from orchestrator.services.access import scoped, tenants_of
from orchestrator.services.jobs import Applied

#: Characters up to which a text is checked while somebody types; beyond, by the button.
CHECKED_LIVE: Final = 300_000
LONGEST_COMMENT: Final = 500
#: Problems that stand beside the text; the first ones are the cause of the others often enough.
SHOWN_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class LineProblem:
    """A problem as the page shows it: at its line, with what the line says."""

    problem: Problem
    line: int
    excerpt: str
    #: Characters of the line, behind which the words stand.
    length: int

    @property
    def found(self) -> str:
        value = self.problem.value
        return "" if value is None else str(shown(value))

    @property
    def words(self) -> str:
        expected = f": expected {self.problem.expected}" if self.problem.expected else ""
        return self.problem.message + expected


class EditorPage(ConsolePage, ABC):
    """What the pages of a new and of an existing job have in common."""

    template_name: ClassVar[str] = "console/editor.html"

    @property
    def job(self) -> Job | None:
        return None

    def editable(self) -> str:
        """Return why the text cannot be changed here, "" if it can."""
        return ""

    @abstractmethod
    def text_to_begin_with(self) -> str:
        """Return what the page opens with."""

    @abstractmethod
    def save(self, text: str, comment: str) -> tuple[editing.Review, Applied | None]:
        """Store the text if nothing is wrong with it; raises what the services refuse."""

    @abstractmethod
    def tenant(self) -> Tenant:
        """Return the tenant that the job belongs to, or will."""

    def context(self) -> dict[str, Any]:
        return self.shown(self.text_to_begin_with())

    def shown(
        self,
        text: str,
        *,
        comment: str = "",
        review: editing.Review | None = None,
        refusal: str = "",
    ) -> dict[str, Any]:
        problems = at_lines(text, review.problems) if review is not None else []
        return {
            "job": self.job,
            "read_only": self.editable(),
            "text": text,
            "numbers": "\n".join(map(str, range(1, text.count("\n") + 2))),
            "lines": text.count("\n") + 1,
            "comment": comment,
            "review": review,
            "problems": problems[:SHOWN_PROBLEMS],
            "more_problems": max(0, len(problems) - SHOWN_PROBLEMS),
            "problem_count": len(problems),
            "refusal": refusal,
            "is_checked_live": len(text) <= CHECKED_LIVE,
            "longest_comment": LONGEST_COMMENT,
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # A form sends two characters for every line break; lines and columns are counted in ours.
        text = request.POST.get("text", "").replace("\r\n", "\n")
        comment = request.POST.get("comment", "").replace("\x00", "").strip()[:LONGEST_COMMENT]
        if request.POST.get("action") != "save":
            found = self.shown(text, comment=comment, review=editing.review(text, tenant=self.tenant(), job=self.job))
            if is_refresh(request):
                return render(request, "console/editor/findings.html", {**found, "page": self, "is_part": True})
            return self.rendered({"page": self, **found})
        try:
            review, applied = self.save(text, comment)
        except UpbeatError as error:
            again = editing.review(text, tenant=self.tenant(), job=self.job)
            return self._answered(text, comment=comment, review=again, refusal=error.message)
        if applied is None:
            return self._answered(text, comment=comment, review=review)
        _tell(request, applied)
        return HttpResponseRedirect(reverse("admin:orchestrator_job_change", args=[applied.job.pk]))

    def _answered(self, text: str, **found: Any) -> HttpResponseBase:
        return self.rendered({"page": self, **self.shown(text, **found)})


class DefinitionPage(EditorPage):
    """`/admin/jobs/<id>/definition/`: to look at for who may see the job, to change for who may define it."""

    permission: ClassVar[str] = "orchestrator.view_job"

    @cached_property
    def the_job(self) -> Job:
        job_id: int = self.kwargs["job_id"]
        jobs = Job.objects.select_related("latest_version__job", "tenant")
        job = jobs.filter(pk=job_id).first() if job_id <= LARGEST_ID else None
        if job is None or job.latest_version is None or not may(self.request, self.permission, job):
            raise Http404(f"There is no job {job_id}.")
        return job

    @property
    def job(self) -> Job:
        return self.the_job

    def subject(self) -> Job:
        return self.the_job

    def page_title(self) -> str:
        return f"Definition of {self.the_job.name}"

    def tenant(self) -> Tenant:
        return self.the_job.tenant

    def editable(self) -> str:
        job = self.the_job
        if not may(self.request, "orchestrator.change_job", job):
            return "Your role does not include changing jobs: the definition is here to read."
        if job.managed_by:
            kind, _, owner = job.managed_by.partition(":")
            return f"The job belongs to the {kind} {owner}; change that instead."
        if job.archived_at is not None:
            return "The job is archived; restore it before its definition is changed."
        return ""

    def text_to_begin_with(self) -> str:
        version = self.the_job.latest_version
        assert version is not None, "looked at by `the_job`"
        asked = self.request.GET.get("version", "")
        if asked.isascii() and asked.isdigit() and len(asked) < 10 and int(asked) != version.number:
            # To go back: the older text becomes the latest when it is saved.
            version = version_of(self.the_job, int(asked))
        return editing.text_to_edit(version)

    def shown(self, text: str, **found: Any) -> dict[str, Any]:
        latest = self.the_job.latest_version
        assert latest is not None, "looked at by `the_job`"
        based_on = self.request.POST.get("based_on", "")
        return {
            **super().shown(text, **found),
            "version": latest,
            "based_on": based_on if based_on.isdigit() and not found.get("refusal") else latest.number,
            "older": self.request.GET.get("version", ""),
        }

    def save(self, text: str, comment: str) -> tuple[editing.Review, Applied | None]:
        based_on = self.request.POST.get("based_on", "")
        return editing.save_definition(
            text,
            job=self.the_job,
            based_on=int(based_on) if based_on.isascii() and based_on.isdigit() and len(based_on) < 10 else 0,
            by=f"user:{self.request.user.get_username()}",
            comment=comment,
        )

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not may(request, "orchestrator.change_job", self.the_job):
            raise PermissionDenied
        return super().post(request, *args, **kwargs)


class NewJobPage(EditorPage):
    """`/admin/jobs/new/`; `?copy=<id>` begins with the definition of another job."""

    title: ClassVar[str] = "New job"
    permission: ClassVar[str] = "orchestrator.add_job"

    @cached_property
    def tenants(self) -> list[Tenant]:
        return list(scoped(Tenant.objects.order_by("slug"), tenants_of(self.request.user, Action.DEFINE)))

    def tenant(self) -> Tenant:
        asked = self.request.POST.get("tenant", "")
        chosen = next((tenant for tenant in self.tenants if str(tenant.pk) == asked), None)
        if chosen is None and (asked or not self.tenants):
            raise Http404("There is no such tenant.")
        return chosen or self.tenants[0]

    def editable(self) -> str:
        return "" if self.tenants else "There is no tenant in which you may define jobs."

    def text_to_begin_with(self) -> str:
        asked = self.request.GET.get("copy", "")
        if asked.isascii() and asked.isdigit() and len(asked) < 19:
            job = Job.objects.select_related("latest_version__job").filter(pk=int(asked)).first()
            if job is not None and job.latest_version is not None and may(self.request, "orchestrator.view_job", job):
                return editing.text_to_edit(job.latest_version)
        return editing.FIRST_DEFINITION

    def shown(self, text: str, **found: Any) -> dict[str, Any]:
        return {
            **super().shown(text, **found),
            "tenants": self.tenants,
            "tenant_id": self.request.POST.get("tenant", "") or (str(self.tenants[0].pk) if self.tenants else ""),
        }

    def save(self, text: str, comment: str) -> tuple[editing.Review, Applied | None]:
        return editing.save_new_job(
            text, tenant=self.tenant(), by=f"user:{self.request.user.get_username()}", comment=comment
        )


def at_lines(text: str, problems: tuple[Problem, ...]) -> list[LineProblem]:
    """Return each problem with the line that it stands at; one of the whole document stands at the first."""
    if not problems:
        return []
    lines = text.split("\n")
    found = []
    for problem in problems:
        line = min(max(problem.line or 1, 1), len(lines))
        found.append(LineProblem(problem, line, str(shown(lines[line - 1])), len(lines[line - 1])))
    return found


def _tell(request: HttpRequest, applied: Applied) -> None:
    name, number = applied.job.name, applied.version.number
    if applied.outcome == "unchanged":
        messages.warning(
            request,
            f"Nothing was stored: the content is that of version {number}. Comments and blank lines make no version.",
        )
    elif applied.version_created:
        messages.success(request, f"{name}: version {number} was stored; the next run takes it.")
    else:
        messages.success(request, f"{name}: version {number}, which had this content before, is the latest again.")
