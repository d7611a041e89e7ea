from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.caller import by_cli
from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.locks import set_lock


class Command(DefinitionCommand):
    help = "Define a named lock or change its capacity; a raise is granted at once, lowering revokes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--capacity", type=int, required=True, metavar="N", help="Attempts that hold it at once.")
        parser.add_argument("--description", metavar="TEXT", help="What it guards; default: as it is.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        stored = set_lock(
            tenant=self.tenant(options["tenant"]),
            name=options["name"],
            capacity=options["capacity"],
            description=options["description"],
            by=by_cli(),
        )
        if options["json"]:
            self.print_json({"name": stored.lock.name, "capacity": stored.lock.capacity, "outcome": stored.outcome})
        else:
            self.stdout.write(f"{stored.lock.name} capacity {stored.lock.capacity} {stored.outcome}")
