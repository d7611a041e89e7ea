"""`manage.py emit_events`: events to play with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.conf import options as settings
from orchestrator.errors import UpbeatError
from triggers import emitting
from triggers.models import EventSource


class Command(BaseCommand):
    help = "Send events to Kafka, RabbitMQ, a webhook or the API, to see what rules make of them."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--to", required=True, choices=["kafka", "rabbitmq", "webhook", "api"])
        parser.add_argument("--source", metavar="SLUG", help="The event source whose broker or endpoint is meant.")
        parser.add_argument("--tenant", default="default", metavar="SLUG", help="Tenant of it; default: %(default)s.")
        parser.add_argument("--topic", help=f"Topic of Kafka; default: the source's first, else {emitting.TOPIC}.")
        parser.add_argument("--exchange", default=emitting.EXCHANGE, help="Exchange of RabbitMQ; default: %(default)s.")
        parser.add_argument("--routing-key", default="", metavar="KEY", help="Default: the type of each event.")
        parser.add_argument("--url", metavar="URL", help="Where the web process answers; default: this machine's.")
        parser.add_argument("--token", metavar="TOKEN", help="For the API; default: the variable UPBEAT_TOKEN.")
        parser.add_argument("--type", default="order.created", help="Type of the events; default: %(default)s.")
        parser.add_argument(
            "--payload", metavar="JSON", help="Payload of the events; default: orders of random amounts."
        )
        parser.add_argument(
            "--file", metavar="FILE", help="Send the events of a file instead: JSON, one a line or a list of them."
        )
        parser.add_argument("--count", type=_count, metavar="N", help="How many; default: 1, or all of the file.")
        parser.add_argument("--rate", type=_rate, default=0.0, metavar="N", help="Events a second; default: no limit.")
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        began, sent = time.monotonic(), 0
        try:
            with self._sender(options) as send:
                for event in _events(options):
                    if options["rate"]:
                        time.sleep(max(0.0, began + sent / options["rate"] - time.monotonic()))
                    send(event)
                    sent += 1
        except UpbeatError as error:
            raise CommandError(f"{error.message} {sent} sent before.") from error
        except KeyboardInterrupt:
            self.stderr.write("Interrupted.")
        seconds = time.monotonic() - began
        if options["json"]:
            self.stdout.write(json.dumps({"sent": sent, "seconds": round(seconds, 3)}))
        else:
            self.stdout.write(f"{sent} {'event' if sent == 1 else 'events'} sent in {seconds:.1f} s")

    def _sender(self, options: Mapping[str, Any]) -> AbstractContextManager[emitting.Send]:
        source = self._source(options)
        match options["to"]:
            case "kafka":
                topics = source.config.get("topics", []) if source is not None else []
                return emitting.to_kafka(source, options["topic"] or next(iter(topics), emitting.TOPIC))
            case "rabbitmq":
                return emitting.to_rabbitmq(source, options["exchange"], options["routing_key"])
            case "webhook":
                if source is None:
                    raise CommandError("Name the webhook with --source.", returncode=2)
                return emitting.to_webhook(source, _url(options))
        token = options["token"] or os.environ.get("UPBEAT_TOKEN", "")
        if not token:
            raise CommandError("Give a token with --token, or in UPBEAT_TOKEN.", returncode=2)
        return emitting.to_api(_url(options), token)

    def _source(self, options: Mapping[str, Any]) -> EventSource | None:
        slug = options["source"]
        if slug is None:
            return None
        source = EventSource.objects.filter(tenant__slug=options["tenant"], slug=slug).first()
        if source is None:
            raise CommandError(f"There is no event source {slug!r}.", returncode=2)
        if source.kind != options["to"]:
            raise CommandError(f"The event source {slug!r} is a {source.kind}, no {options['to']}.", returncode=2)
        return source


def _url(options: Mapping[str, Any]) -> str:
    own = settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(own.host, own.host)
    return str(options["url"] or f"http://{host}:{own.port}").rstrip("/")


def _events(options: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if options["file"] is None:
        payload = _object(options["payload"], "--payload") if options["payload"] is not None else None
        return (emitting.sample(options["type"], payload) for _ in range(options["count"] or 1))
    found = list(_read(options["file"]))
    if not found:
        raise CommandError(f"{options['file']}: there is no event in it.", returncode=2)
    return islice(cycle(found), options["count"] or len(found))


def _read(name: str) -> Iterator[Mapping[str, Any]]:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{name}: {error}", returncode=2) from error
    try:
        whole = json.loads(text)
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        yield from (_object(line, f"{name}:{number}") for number, line in lines)
        return
    for index, one in enumerate(whole if isinstance(whole, list) else [whole]):
        if not isinstance(one, dict):
            raise CommandError(f"{name}[{index}]: an event is a JSON object.", returncode=2)
        yield one


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{where}: {error}", returncode=2) from error
    if not isinstance(value, dict):
        raise CommandError(f"{where}: a JSON object is expected.", returncode=2)
    return value


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number
