"""`manage.py run_triggers`: the listeners of event sources, and the roles beside them."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from triggers.listeners.health import SILENT_SECONDS
from triggers.listeners.hosting import LISTENERS, Stop, host_child, host_roles, host_source_and_follow
from triggers.listeners.roles import ROLES
from triggers.listeners.supervisor import (
    Supervisor,
    default_progress_file,
    forget_progress,
    parts_wanted,
    processes_of,
    silence_of,
)
from triggers.models import EventSource


class Command(BaseCommand):
    help = (
        "Read event sources and do the work of the roles beside them. Without options: all enabled sources of Kafka and "
        "RabbitMQ, a process each, and all roles. One source alone, or roles alone, run in this process. Changes of sources "
        "are followed within seconds. SIGTERM ends in order within 20 s, a second one at once."
    )
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--source", action="append", default=[], metavar="SLUG", help="Only this source; repeatable."
        )
        parser.add_argument(
            "--role", action="append", default=[], choices=sorted(ROLES), help="Only this role; repeatable."
        )
        parser.add_argument("--tenant", metavar="SLUG", help="Tenant of the sources; default: all that have one.")
        parser.add_argument(
            "--check",
            action="store_true",
            help="Start nothing: exit code 0 if the process on this machine made progress within a minute, else 1.",
        )
        parser.add_argument("--child", help=argparse.SUPPRESS)
        parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
        parser.add_argument("--slot", type=int, default=0, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        file = default_progress_file(os.environ)
        if options["check"]:
            silent = silence_of(file)
            if silent is None or silent > SILENT_SECONDS:
                raise CommandError("No progress." if silent is None else f"No progress for {silent:.0f} s.")
            return
        os.environ["UPBEAT_PROGRESS_FILE"] = str(file)
        if not options["child"]:
            forget_progress(file)
        stop = Stop()
        stop.listen()
        code = self._run(stop, options)
        connection.close()
        self.stdout.flush()
        if code:
            sys.exit(code)

    def _run(self, stop: Stop, options: dict[str, Any]) -> int:
        if options["child"]:
            return host_child(options["child"], stop=stop, parent=options["parent"], slot=options["slot"])
        sources = [self._source(slug, options["tenant"]) for slug in options["source"]]
        roles = options["role"] or (() if sources else tuple(ROLES))
        if len(sources) == 1 and not roles and processes_of(sources[0]) <= 1:
            return host_source_and_follow(sources[0].pk, stop=stop)
        if not sources and options["role"]:
            return host_roles(roles, stop=stop)
        ids = [source.pk for source in sources] or None
        supervisor = Supervisor(partial(parts_wanted, ids, roles), stop=stop)
        stop.before_force(supervisor.kill_all)
        return supervisor.run()

    def _source(self, slug: str, tenant: str | None) -> EventSource:
        found = EventSource.objects.select_related("tenant").filter(slug=slug)
        if tenant is not None:
            found = found.filter(tenant__slug=tenant)
        sources = list(found.order_by("pk")[:2])
        if not sources:
            raise CommandError(f"There is no event source {slug!r}.", returncode=2)
        if len(sources) > 1:
            raise CommandError(f"Several tenants have an event source {slug!r}: name one with --tenant.", returncode=2)
        if sources[0].kind not in LISTENERS:
            raise CommandError(f"Nothing has to listen to {slug!r}: it is a {sources[0].kind}.", returncode=2)
        return sources[0]
