"""The page of one run: what fails, what it waits for, and what to do about it."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils.functional import cached_property

from orchestrator.console.pages import ConsolePage
from orchestrator.models import JobRun
from orchestrator.states import RUN_FINAL


class RunPage(ConsolePage):
    permission = "orchestrator.view_jobrun"
    template_name = "console/run.html"
    live_template = "console/run/live.html"
    every = 2.0

    @cached_property
    def run(self) -> JobRun:
        runs = JobRun.objects.select_related("job", "version").defer("version__spec", "version__source", "event")
        run = runs.filter(pk=self.kwargs["run_id"]).first()
        if run is None:
            raise Http404(f"There is no run {self.kwargs['run_id']}.")
        return run

    def subject(self) -> JobRun:
        return self.run

    def page_title(self) -> str:
        return f"{self.run.job.name} #{self.run.pk}"

    def context(self) -> dict[str, Any]:
        return {"run": self.run}

    def is_over(self, context: dict[str, Any]) -> bool:
        return self.run.state in RUN_FINAL
