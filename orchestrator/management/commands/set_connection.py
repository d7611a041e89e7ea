from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.management.caller import by_cli
from orchestrator.management.hidden import HiddenValueCommand
from orchestrator.services.connections import set_connection


class Command(HiddenValueCommand):
    help = "Store a connection for sql tasks: its URL, read from standard input or a file, never from an argument."
    what = "URL"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--description", default="", metavar="TEXT", help="What it leads to, for people.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        connection = set_connection(
            tenant=self.tenant(options["tenant"]),
            name=options["name"],
            url=self.hidden_value(options),
            description=options["description"],
            by=by_cli(),
            reason=options["reason"],
        )
        if options["json"]:
            self.print_json({"name": connection.name, "tenant": options["tenant"], "shown_url": connection.shown_url})
        else:
            self.stdout.write(f"{connection.name} stored: {connection.shown_url}")
