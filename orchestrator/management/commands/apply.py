from __future__ import annotations

import os
from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.jobs import apply_definitions


class Command(DefinitionCommand):
    help = "Make definition files the latest versions of their jobs, all or none; the same content changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE")
        parser.add_argument("--comment", default="", metavar="TEXT", help="Kept with each new version.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        found = self.valid_definitions(options["files"])
        applied = apply_definitions(
            tenant=self.tenant(options["tenant"]),
            definitions=[
                (each.definition.spec, each.definition.source) for each in found if each.definition.spec is not None
            ],
            author=os.environ.get("USER") or "command line",
            comment=options["comment"],
        )
        results = [
            {
                "file": each.file,
                "job": result.job.name,
                "version": result.version.number,
                # An older version that became the latest again was not created.
                "outcome": "created" if result.version_created else result.outcome,
            }
            for each, result in zip(found, applied, strict=True)
        ]
        if options["json"]:
            self.print_json({"applied": results})
            return
        for line in results:
            self.stdout.write(f"{line['job']} version {line['version']} {line['outcome']}")
