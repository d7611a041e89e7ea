"""The form by which a person starts a run of a job: drawn from the job's parameters, with each problem at its field."""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import Any, ClassVar, Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase

from orchestrator.console.forms import PREFIX, fields_of, problems_of, read_form
from orchestrator.console.pages import ConsolePage, may
from orchestrator.console.views.commands import LARGEST_ID, LONGEST_REASON, run_page
from orchestrator.dag.spec import JobSpec
from orchestrator.errors import InvalidParameters, UpbeatError
from orchestrator.models import Job, JobRun, Secret
from orchestrator.selectors.jobs import JobStatus, spec_of_job, status_of
from orchestrator.services.idempotency import start_run_of_form
from orchestrator.services.parameters import problems_with, values_without

#: Names offered for a parameter that is a secret.
MOST_SECRETS: Final = 1_000


class TriggerPage(ConsolePage):
    """`/admin/jobs/<id>/trigger/`; `?from_run=<id>` begins with the parameters of an earlier run of the job."""

    template_name: ClassVar[str] = "console/trigger.html"
    permission: ClassVar[str] = "orchestrator.trigger_job"

    @cached_property
    def job(self) -> Job:
        job_id: int = self.kwargs["job_id"]
        jobs = Job.objects.select_related("latest_version", "tenant").defer("latest_version__source")
        job = jobs.filter(pk=job_id).first() if job_id <= LARGEST_ID else None
        if job is None or job.latest_version is None:
            raise Http404(f"There is no job {job_id}.")
        return job

    @cached_property
    def spec(self) -> JobSpec:
        return spec_of_job(self.job)

    def subject(self) -> Job:
        return self.job

    def may_see(self, request: HttpRequest) -> bool:
        if not may(request, "orchestrator.view_job", self.job):
            raise Http404(f"There is no job {self.job.pk}.")
        return super().may_see(request)

    def page_title(self) -> str:
        return f"Trigger {self.job.name}"

    def context(self) -> dict[str, Any]:
        return self.shown()

    def shown(
        self,
        *,
        texts: dict[str, str] | None = None,
        by_name: dict[str, str] | None = None,
        others: list[str] | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        earlier = self._earlier_run()
        specs = self.spec.parameters
        names = (
            list(Secret.objects.filter(tenant=self.job.tenant).order_by("name").values_list("name", flat=True)
                 [:MOST_SECRETS])
            if any(spec.type == "secret" for spec in specs)
            else []
        )  # fmt: skip
        fields = fields_of(
            specs,
            without=values_without(specs, tenant=self.job.tenant),
            secrets=names,
            texts=texts,
            given=earlier.parameters if earlier else {},
            problems=by_name,
        )
        status = status_of(self.job)
        return {
            "job": self.job,
            "version": self.job.latest_version,
            "fields": fields,
            "problem_fields": [field for field in fields if field.problem],
            "others": others or [],
            "reason": reason,
            "status": status,
            "hold": _hold(self.job, status),
            "earlier": earlier,
            "form_key": secrets.token_urlsafe(12),
            "longest_reason": LONGEST_REASON,
            "may_steer": may(self.request, "orchestrator.steer_job", self.job),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        texts = {
            spec.name: request.POST[PREFIX + spec.name]
            for spec in self.spec.parameters
            if PREFIX + spec.name in request.POST
        }
        reason = request.POST.get("reason", "").replace("\x00", "").strip()[:LONGEST_REASON]
        version = self.job.latest_version
        assert version is not None, "looked at by `job`"
        if request.POST.get("version", str(version.number)) != str(version.number):
            said = (
                f"The job has changed while you filled in the form: it is at version {version.number} now. Look again."
            )
            return self._refused(texts=texts, others=[said], reason=reason)
        read = read_form(self.spec.parameters, texts)
        if read.problems:
            # All that is wrong at once: also with the fields that could be read.
            found = problems_with(self.spec.parameters, read.values, tenant=self.job.tenant)
            by_name, others = problems_of(found)
            return self._refused(texts=texts, by_name={**by_name, **read.problems}, others=others, reason=reason)
        try:
            started = start_run_of_form(
                tenant=self.job.tenant,
                form_key=request.POST.get("form_key", "")[:100],
                by=f"user:{request.user.get_username()}",
                job_name=self.job.name,
                parameters=read.values,
                reason=reason,
            )
        except InvalidParameters as error:
            by_name, others = problems_of(error.details)
            return self._refused(texts=texts, by_name=by_name, others=others, reason=reason)
        except UpbeatError as error:
            return self._refused(texts=texts, others=[error.message], reason=reason)
        if started.created:
            messages.success(request, f"Run {started.run.pk} of {self.job.name} was started.")
        else:
            messages.warning(request, f"This form had already started run {started.run.pk}; no other one was started.")
        return HttpResponseRedirect(run_page(started.run.pk))

    def _refused(self, **shown: Any) -> HttpResponseBase:
        return self.rendered({"page": self, **self.shown(**shown)})

    def _earlier_run(self) -> JobRun | None:
        asked = self.request.GET.get("from_run", "")
        if not (asked.isascii() and asked.isdigit() and len(asked) < 19):
            return None
        return JobRun.objects.filter(pk=int(asked), job=self.job).only("pk", "parameters").first()


def _hold(job: Job, status: JobStatus) -> str:
    """Say what would keep a run from starting at once, "" if nothing is known that does."""
    if job.paused_at is not None:
        why = f" ({job.pause_reason})" if job.pause_reason else ""
        return f"The job is paused by {job.paused_by or 'somebody'}{why}: a run waits until the job is resumed."
    limit = job.concurrency_limit
    if limit is not None and status.open_runs >= limit:
        then = {
            "queue": "a further one waits for its turn",
            "skip": "a further one ends cancelled at once",
            "cancel_running": "a further one cancels what runs",
        }[job.when_full]
        count = "1 run is" if status.open_runs == 1 else f"{status.open_runs} runs are"
        return f"{count} open, and the job takes {limit} at a time: {then}."
    return ""
