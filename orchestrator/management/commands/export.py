from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from orchestrator.dag.export import export_form, export_yaml, form_as_yaml
from orchestrator.dag.spec import JobSpec
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.registry import definition_kinds
from orchestrator.services.jobs import version_of_job


class Command(DefinitionCommand):
    help = "Print a version of a job, or a definition of another kind, as YAML that `apply` accepts unchanged."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django gives every command a --version of its own, which prints Django's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", metavar="JOB", help="The job's name; with --kind that of the other definition.")
        parser.add_argument("--kind", default="Job", metavar="KIND", help="Kind of the definition; default: Job.")
        parser.add_argument("--version", type=int, metavar="N", help="Number of the version; default: the latest.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        if options["kind"] != "Job":
            self._export_other(options)
            return
        version = version_of_job(
            tenant=self.tenant(options["tenant"]), job_name=options["job"], number=options["version"]
        )
        spec = JobSpec.from_canonical(version.spec)
        if options["json"]:
            self.print_json({"job": spec.name, "version": version.number, "definition": export_form(spec)})
        else:
            self.stdout.write(export_yaml(spec), ending="")

    def _export_other(self, options: dict[str, Any]) -> None:
        asked = options["kind"]
        kind = definition_kinds.get(asked) or next(
            (each for each in definition_kinds if each.list_field == asked), None
        )
        if kind is None:
            raise CommandError(f"--kind: {options['kind']!r} is none of {', '.join(definition_kinds.names())}")
        if options["version"] is not None:
            raise CommandError(f"--version: a {kind.name} has no versions")
        form = dict(kind.export(self.tenant(options["tenant"]), options["job"]))
        if options["json"]:
            self.print_json({"kind": kind.name, "name": options["job"], "definition": form})
        else:
            self.stdout.write(form_as_yaml(form), ending="")
