"""What the commands on secrets and connections share: values that nobody else may see on their way in."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from orchestrator.errors import UpbeatError
from orchestrator.management.definitions import DefinitionCommand


class StoredCommand(DefinitionCommand):
    """A command on one stored object by its name, with a reason that is recorded."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it is kept with the change.")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.run(**options)
        except UpbeatError as error:
            # The details never hold what must not be seen.
            expected = [f"{detail.path}: expected {detail.expected}" for detail in error.details]
            raise CommandError("\n".join([error.message, *expected])) from error


class HiddenValueCommand(StoredCommand):
    """Stores a value that is read from standard input or a file: arguments can be seen by every user of the host."""

    what = "value"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--file", metavar="PATH", help=f"Read the {self.what} from this file; default: standard input."
        )
        super().add_arguments(parser)

    def hidden_value(self, options: dict[str, Any]) -> str:
        """Return the value, without the line end that `echo` and editors add. Raises CommandError."""
        try:
            if options["file"]:
                value = Path(options["file"]).read_text()
            elif sys.stdin.isatty():
                value = getpass.getpass(f"{self.what.capitalize()} (not shown): ")
            else:
                value = sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the {self.what} cannot be read: {error}") from error
        return value.removesuffix("\n").removesuffix("\r")
