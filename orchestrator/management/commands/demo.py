"""`manage.py demo`: the embedded profile on this machine, in one command."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orchestrator.conf import options
from orchestrator.embedded import launcher


class Command(BaseCommand):
    help = "Start Redis-protocol server, web, workers, beat and Flower on this machine; Ctrl-C stops them."
    requires_system_checks = ()
    requires_migrations_checks = False

    def handle(self, *args: Any, **kwargs: Any) -> None:
        if options().profile != "embedded":
            raise CommandError(
                "demo runs the embedded profile; unset UPBEAT_PROFILE (docker-compose.yml is for production)"
            )
        try:
            launcher.run(self._say)
        except launcher.CannotStart as error:
            raise CommandError(str(error)) from error

    def _say(self, message: str) -> None:
        self.stdout.write(message)
        self.stdout.flush()
