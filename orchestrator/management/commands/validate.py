from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.definitions import DefinitionCommand, read_files


class Command(DefinitionCommand):
    help = "Check definition files and print every problem; needs no database. Exit code 0, or 1 with problems."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        found = read_files(options["files"])
        is_valid = not any(each.definition.problems for each in found)
        if options["json"]:
            self.print_json({"valid": is_valid, "definitions": [each.as_dict() for each in found]})
        else:
            for each in found:
                for line in each.lines:
                    self.stdout.write(line)
                if each.definition.content is not None:
                    self.stdout.write(f"{each.file}: {each.title} is valid ({each.kind.summary(each.content)})")
        if not is_valid:
            sys.exit(1)
