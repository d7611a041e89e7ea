from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.celery import app
from orchestrator.errors import Detail, InvalidRequest
from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.selectors.runs import run_of
from orchestrator.services.steering import Start, rerun


class Command(DefinitionCommand):
    help = "Run a run that has ended again, as a new run; print its id."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", type=int, metavar="RUN", help="Id of the run.")
        parser.add_argument(
            "--from",
            dest="start",
            default="failed",
            metavar="FROM",
            help="start, failed, or tasks separated by commas; each with all downstream of it. Default: failed.",
        )
        parser.add_argument(
            "--mark",
            action="append",
            default=[],
            metavar="TASK=STATE",
            help="End a task as succeeded or skipped instead of running it; may be repeated.",
        )
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; kept with the run.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        # Who only publishes must be told of the Celery tasks; a worker imports them by itself.
        app.loader.import_default_modules()
        given: str = options["start"]
        start: Start = given if given in ("start", "failed") else [name.strip() for name in given.split(",")]
        made = rerun(
            run_of(self.tenant(options["tenant"]).pk, options["run"]).pk,
            start=start,
            mark=dict(_mark(pair) for pair in options["mark"]),
            by=by_cli(),
            reason=options["reason"],
        )
        if options["json"]:
            self.print_json({"id": made.pk, "state": made.state, "reason": made.reason, "rerun_of": made.rerun_of_id})
        else:
            self.stdout.write(f"run {made.pk} {made.state}, run {made.rerun_of_id} again")


def _mark(pair: str) -> tuple[str, str]:
    task, equals, state = pair.partition("=")
    if not equals:
        raise InvalidRequest(
            "A mark is not understood.", details=(Detail("--mark", pair, "TASK=succeeded or skipped"),)
        )
    return task, state
