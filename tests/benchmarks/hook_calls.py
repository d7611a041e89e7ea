"""Signed calls of a webhook, each on a connection that is kept, at a rate that waits for no answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence

from orchestrator.services.secrets import set_secret
from tests.benchmarks.bench import Bench
from tests.support.rules import spec
from tests.support.webhooks import SECRET, generic, text
from triggers.services.rules import create_rule
from triggers.services.sources import SourceSpec, create_source

#: Connections: a provider's deliveries come from many.
CONNECTIONS = 16


class HookCaller:
    """A sender with a connection of its own."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def send(self, message_id: str, *, event_type: str = "order.created", size: int = 500) -> int:
        """Deliver an event of so many bytes and return the answer's status."""
        body = body_of(message_id, event_type, size)
        self._connection.request("POST", self._path, body, generic(body))
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


def body_of(message_id: str, event_type: str, size: int) -> bytes:
    payload = {"orderId": message_id, "amount": 1999.5, "note": ""}
    event = {"messageId": message_id, "eventType": event_type, "source": "bench", "payload": payload}
    payload["note"] = "x" * max(0, size - len(text(event)))
    return text(event)


def add_webhook(bench: Bench, slug: str) -> str:
    """Make a webhook that is signed as the generic provider signs; return its path."""
    set_secret(tenant=bench.tenant, name=f"{slug}-secret", value=SECRET, by="bench")
    source = SourceSpec(slug, "webhook", {"provider": "generic"}, {"current": f"{slug}-secret"})
    return f"/api/v1/hooks/{create_source(tenant=bench.tenant, spec=source, by='bench').endpoint}"


def add_rule(bench: Bench, slug: str, job: str, **fields: str) -> None:
    create_rule(tenant=bench.tenant, spec=spec(ruleId=slug, taskName=job, **fields), by="bench")


def at_rate(
    port: int, path: str, *, rate: float, seconds: float, prefix: str, event_types: Sequence[str] = ("order.created",)
) -> tuple[list[float], list[int], dict[str, float]]:
    """Send at a rate and return the milliseconds of each call from the moment it was due, its status, and those moments.

    A call that is sent late because the one before it was slow counts from when it was due: whoever waits for the
    server measures only the server's good moments.
    """
    count = int(rate * seconds)
    took: list[float] = [0.0] * count
    statuses: list[int] = [0] * count
    due_at: dict[str, float] = {}
    began = time.time() + 0.2

    def work(first: int) -> None:
        caller = HookCaller(port, path)
        for number in range(first, count, CONNECTIONS):
            due = began + number / rate
            if (pause := due - time.time()) > 0:
                time.sleep(pause)
            statuses[number] = caller.send(f"{prefix}-{number}", event_type=event_types[number % len(event_types)])
            took[number] = (time.time() - due) * 1000

    for number in range(count):
        due_at[f"{prefix}-{number}"] = began + number / rate
    threads = [threading.Thread(target=work, args=(first,)) for first in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, statuses, due_at
