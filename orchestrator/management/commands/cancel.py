from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.celery import app
from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.selectors.runs import run_of
from orchestrator.services.runs import cancel_run


class Command(DefinitionCommand):
    help = "Cancel a run: what does not run ends at once, running tasks are asked to stop."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", type=int, metavar="RUN", help="Id of the run.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; kept with the run.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        # Its end may let the job's next run in, whose tasks are published here.
        app.loader.import_default_modules()
        run = run_of(self.tenant(options["tenant"]).pk, options["run"])
        ended = cancel_run(run.pk, by=by_cli(), reason=options["reason"])
        if options["json"]:
            self.print_json({"id": ended.pk, "state": ended.state, "reason": ended.reason or ended.stop_reason})
        else:
            self.stdout.write(f"run {ended.pk} {ended.state if ended.ended_at else 'is being stopped'}")
