from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.errors import UpbeatError
from triggers.models import EventSource

#: As of `plan`: told apart from 1 and 2, the codes of a failure and of a wrong call.
CHANGES = 3


class _Report(Protocol):
    missing: list[str]
    drift: list[str]
    doubts: list[str]


class Command(BaseCommand):
    help = (
        "Show which topics, exchanges, queues and bindings the brokers of event sources lack, or have differently; make "
        "what is missing with --apply. Deletes nothing. Exit code with --check: 0 for nothing to do, 3 for changes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--check", action="store_true", help="only say whether something is missing: exit code 3")
        what.add_argument("--apply", action="store_true", help="make what is missing")
        parser.add_argument(
            "--replication-factor", type=int, metavar="N", help="copies of each topic, instead of what is declared"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **given: Any) -> None:
        found, failed = [], []
        for title, look in self._brokers(given["replication_factor"], make=given["apply"]):
            try:
                found.append((title, look()))
            except UpbeatError as error:
                # One broker that is away must not hide what another one lacks.
                failed.append(str(error))
        if given["json"]:
            shown = [
                {"broker": title, "missing": report.missing, "drift": report.drift, "doubts": report.doubts}
                for title, report in found
            ]
            self.stdout.write(json.dumps({"brokers": shown, "applied": given["apply"]}, indent=2, ensure_ascii=False))
        else:
            self._tell(found, applied=given["apply"])
        if failed:
            raise CommandError("\n".join(failed))
        if given["check"] and any(report.missing for _, report in found):
            sys.exit(CHANGES)

    def _brokers(self, replication: int | None, *, make: bool) -> list[tuple[str, Callable[[], _Report]]]:
        """Each broker, and how to look at it: to be done one by one."""
        from triggers.listeners import kafka_topics, rabbitmq_topology

        kafka = EventSource.objects.filter(kind="kafka", enabled=True).order_by("pk")
        rabbitmq = EventSource.objects.filter(kind="rabbitmq", enabled=True).order_by("pk")
        found: list[tuple[str, Callable[[], _Report]]] = []
        try:
            for cluster in kafka_topics.wanted(kafka, replication=replication):
                do = kafka_topics.ensure if make else kafka_topics.compare
                found.append((str(cluster), lambda do=do, cluster=cluster: do(cluster)))  # type: ignore[misc]
            for address, (topology, secrets) in rabbitmq_topology.wanted(rabbitmq).items():
                act = rabbitmq_topology.ensure if make else rabbitmq_topology.compare
                found.append(
                    (
                        f"RabbitMQ at {address}",
                        lambda act=act, address=address, secrets=secrets, topology=topology: act(  # type: ignore[misc]
                            address, secrets, topology
                        ),
                    )
                )
        except UpbeatError as error:
            raise CommandError(str(error)) from error
        return found

    def _tell(self, found: list[tuple[str, _Report]], *, applied: bool) -> None:
        if not found:
            self.stdout.write(
                "No broker is known: neither UPBEAT_KAFKA_BOOTSTRAP, nor UPBEAT_RABBITMQ_URL, nor an event source."
            )
        for title, report in found:
            self.stdout.write(
                f"{title}:" if report.missing or report.drift or report.doubts else f"{title}: as it should be"
            )
            for sentence in report.missing:
                self.stdout.write(f"  {'made' if applied else 'missing'}: {sentence}")
            for sentence in report.drift:
                self.stdout.write(f"  left as it is: {sentence}")
            for sentence in report.doubts:
                self.stdout.write(f"  doubtful: {sentence}")
