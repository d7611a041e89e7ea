from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.definitions import DefinitionCommand

#: Told apart from 1 and 2, the codes of a failure and of a wrong call.
CHANGES = 3


class Command(DefinitionCommand):
    help = "Say what `apply` would change. Exit code 0 for nothing, 3 for changes, 1 for problems."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        found = self.valid_definitions(options["files"])
        tenant = self.tenant(options["tenant"])
        plans: list[dict[str, Any]] = []
        for each in found:
            changes = each.kind.plan(tenant, each.content)
            plans.append({"file": each.file, **each.identity, "changes": changes})
        if options["json"]:
            self.print_json({"plans": plans})
        else:
            for each, plan in zip(found, plans, strict=True):
                self.stdout.write(f"{each.short_title}: no changes" if not plan["changes"] else f"{each.short_title}:")
                for sentence in plan["changes"]:
                    self.stdout.write(f"  {sentence}")
        if any(plan["changes"] for plan in plans):
            sys.exit(CHANGES)
