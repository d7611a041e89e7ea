from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.dag.export import export_form, export_yaml
from orchestrator.dag.spec import JobSpec
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.jobs import version_of_job


class Command(DefinitionCommand):
    help = "Print a version of a job as YAML that `apply` accepts unchanged."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django gives every command a --version of its own, which prints Django's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", metavar="JOB")
        parser.add_argument("--version", type=int, metavar="N", help="Number of the version; default: the latest.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        version = version_of_job(
            tenant=self.tenant(options["tenant"]), job_name=options["job"], number=options["version"]
        )
        spec = JobSpec.from_canonical(version.spec)
        if options["json"]:
            self.print_json({"job": spec.name, "version": version.number, "definition": export_form(spec)})
        else:
            self.stdout.write(export_yaml(spec), ending="")
