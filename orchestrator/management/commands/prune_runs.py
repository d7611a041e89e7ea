from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.errors import UpbeatError
from orchestrator.management.caller import by_cli
from orchestrator.models import Tenant
from orchestrator.services.retention import prune_keys, prune_runs, sweep_store
from orchestrator.units import seconds_of


class Command(BaseCommand):
    help = "Delete runs that ended long ago, with their tasks, logs and results. May be stopped and repeated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            required=True,
            metavar="90d",
            help="How long ago a run must have ended: 36h, 90d; 1d or more.",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="Delete so many runs at most; default: all.")
        parser.add_argument("--dry-run", action="store_true", help="Count, and delete nothing.")
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--tenant", metavar="SLUG", help="Runs of this tenant alone; default: of all.")

    def handle(self, *args: Any, **options: Any) -> None:
        seconds = seconds_of(options["older_than"])
        if seconds is None:
            raise CommandError(f"--older-than: {options['older_than']!r} is not a duration such as 36h or 90d")
        if options["limit"] is not None and options["limit"] < 1:
            raise CommandError(f"--limit: {options['limit']} is not a positive number")
        dry_run: bool = options["dry_run"]
        try:
            runs = prune_runs(
                older_than=timedelta(seconds=seconds),
                tenant=self._tenant(options["tenant"]),
                limit=options["limit"],
                dry_run=dry_run,
                by=by_cli(),
            )
            keys = 0 if dry_run else prune_keys()
            swept = 0 if dry_run else sweep_store()
        except UpbeatError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            told = {"dry_run": dry_run, "runs": runs, "idempotency_keys": keys, "swept": swept}
            self.stdout.write(json.dumps(told))
        elif dry_run:
            self.stdout.write(f"{runs} runs would be deleted")
        else:
            self.stdout.write(f"{runs} runs deleted, {keys} idempotency keys; logs of {swept} vanished runs swept")

    def _tenant(self, slug: str | None) -> Tenant | None:
        if slug is None:
            return None
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {slug!r}.")
        return tenant
