from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.definitions import apply_all


class Command(DefinitionCommand):
    help = "Make definition files what is in force, all or none; the same content changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE")
        parser.add_argument("--comment", default="", metavar="TEXT", help="Kept with each new version.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        found = self.valid_definitions(options["files"])
        applied = apply_all(
            tenant=self.tenant(options["tenant"]),
            definitions=[(each.kind, each.content, each.definition.source) for each in found],
            by=by_cli(),
            comment=options["comment"],
        )
        if options["json"]:
            results = [
                {
                    "file": each.file,
                    **each.identity,
                    **({} if result.version is None else {"version": result.version}),
                    "outcome": result.outcome,
                }
                for each, result in zip(found, applied, strict=True)
            ]
            self.print_json({"applied": results})
            return
        for each, result in zip(found, applied, strict=True):
            version = "" if result.version is None else f" version {result.version}"
            self.stdout.write(f"{each.short_title}{version} {result.outcome}")
