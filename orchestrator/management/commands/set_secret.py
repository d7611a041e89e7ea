from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from orchestrator.management.definitions import DefinitionCommand
from orchestrator.services.secrets import set_secret


class Command(DefinitionCommand):
    help = "Store a secret, read from standard input or a file, never from an argument that others could see."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--file", metavar="PATH", help="Read the value from this file; default: standard input.")
        super().add_arguments(parser)

    def run(self, **options: Any) -> None:
        try:
            value = Path(options["file"]).read_text() if options["file"] else sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the value cannot be read: {error}") from error
        secret = set_secret(
            tenant=self.tenant(options["tenant"]),
            name=options["name"],
            # What `echo` and editors add at the end is not part of a secret.
            value=value.removesuffix("\n").removesuffix("\r"),
            by=f"cli:{os.environ.get('USER') or 'unknown'}",
        )
        if options["json"]:
            self.print_json({"name": secret.name, "tenant": options["tenant"]})
        else:
            self.stdout.write(f"{secret.name} stored")
