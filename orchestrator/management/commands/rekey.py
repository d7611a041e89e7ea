from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.errors import UpbeatError
from orchestrator.management.caller import by_cli
from orchestrator.services.rekey import rekey


class Command(BaseCommand):
    help = "Encrypt all secrets and connections, of all tenants, under the first key; then older keys may go."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it is kept with each change.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = rekey(by=by_cli(), reason=options["reason"])
        except UpbeatError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{done.renewed} encrypted anew, {done.already} were under the first key")
        for lost in done.lost:
            self.stderr.write(f"{lost}: none of the keys in UPBEAT_ENCRYPTION_KEYS fits")
        if done.lost:
            raise CommandError("add the missing key again, or store these anew; do not remove keys before")
