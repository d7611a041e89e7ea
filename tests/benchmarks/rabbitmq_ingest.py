"""Events per second that one listener process takes from RabbitMQ into the ledger.

The same events and rules as `kafka_ingest`, from a quorum queue without a limit of its length. By the broker's own
account: every acknowledgement lets it hand out one message more, from the moment on in which the reader has its fill.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid

from django.utils import timezone

from orchestrator.models import JobRun
from tests.benchmarks.bench import Bench, cpu_seconds, per_task
from tests.benchmarks.figures import Figures, Required
from tests.benchmarks.ingest_load import BYTES, CONDITIONS, EVENTS, body
from tests.support.factories import job_of
from tests.support.listeners import listener
from tests.support.rabbitmq import channel_of, declare, flood
from tests.support.waiting import eventually
from triggers.models import Event, EventSource
from triggers.services.rules import create_rule, spec_of
from triggers.services.sources import SourceSpec, create_source
from triggers.sources.rabbitmq import PREFETCH


def measure(bench: Bench) -> Figures:
    url = os.environ["UPBEAT_TEST_RABBITMQ_URL"]
    name = job_of("work").name
    for number, condition in enumerate(CONDITIONS):
        form = {"ruleId": f"r{number}", "eventType": "order.created", "condition": condition, "taskName": name}
        create_rule(tenant=bench.tenant, spec=spec_of(form), by="bench")
    spec = SourceSpec("orders", "rabbitmq", {"queues": ["none-yet"]})
    source = create_source(tenant=bench.tenant, spec=spec, by="bench")
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(bench.repeat):
        for figure, event_type, fires in (
            ("ingest", "order.created", True),
            ("no_candidate", "order.seen", False),
            ("not_fired", "order.created", False),
        ):
            queue = declare(url, f"bench.{uuid.uuid4().hex[:8]}", delivery_limit=1000)
            now = timezone.now().isoformat()
            bodies = [body(queue, number, event_type, fires, now) for number in range(EVENTS)]
            found.setdefault(figure, []).append(_rate(bench, source, url, queue, bodies))
            if figure == "ingest":
                found.setdefault("redelivered", []).append(_rate(bench, source, url, queue, bodies))
    assert Event.objects.count() == 3 * EVENTS * bench.repeat
    assert JobRun.objects.count() == EVENTS // 2 * bench.repeat
    return Figures(
        "rabbitmq_ingest",
        "events/s",
        [rate for rate, _ in found["ingest"]],
        [Required("value", at_least=10_000), Required("redelivered_ratio", at_least=1)],
        cpu_ms_per_task=statistics.median(cpu for _, cpu in found["ingest"]),
        settings=bench.settings
        | {"events": EVENTS, "bytes": BYTES, "prefetch": PREFETCH, "rules": len(CONDITIONS), "workers": []},
        extra={
            "no_candidate": statistics.median(rate for rate, _ in found["no_candidate"]),
            "not_fired": statistics.median(rate for rate, _ in found["not_fired"]),
            "redelivered": statistics.median(rate for rate, _ in found["redelivered"]),
            "redelivered_ratio": statistics.median(
                again / once for (again, _), (once, _) in zip(found["redelivered"], found["ingest"], strict=True)
            ),
        },
    )


def _rate(bench: Bench, source: EventSource, url: str, queue: str, bodies: list[bytes]) -> tuple[float, float]:
    """Fill the queue and read it with one new process: events per second, and CPU ms of the process for each."""
    flood(url, queue, bodies)
    EventSource.objects.filter(pk=source.pk).update(config={"queues": [queue]})
    # The cap on runs that wait for their launch is lifted: nobody executes them here.
    environ = {"UPBEAT_UNLAUNCHED_LIMIT": "0"}
    process = listener("orders", log=bench.directory / f"{queue}.log", environ=environ).start()
    try:
        with channel_of(url) as channel:

            def ready() -> int:
                return int(channel.queue_declare(queue, passive=True).method.message_count)

            began_with = eventually(
                lambda: left if (left := ready()) <= len(bodies) - PREFETCH else 0, within=60, every=0.01
            )
            began, cpu = time.perf_counter(), cpu_seconds(process.tree())
            while ready():
                assert process.running, process.output()[-3000:]
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            cpu = cpu_seconds(process.tree()) - cpu
        # The last messages are in its hands: given back by one that leaves, they would be there again.
        eventually(lambda: Event.objects.filter(part=queue).count() == len(bodies), within=30, every=0.1)
    finally:
        process.stop()
    return began_with / seconds, per_task(cpu, began_with)
