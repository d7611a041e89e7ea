"""Milliseconds from an event that is sent to the start of its run's first task, by every channel.

Idle: one event after the other, each finds everything at rest. Busy: so many events a second, each of which starts a
run. From the sender's clock just before it sends to `started_at` in the ledger; both are this machine's clock.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from orchestrator.models import TaskRun
from tests.benchmarks import shapes
from tests.benchmarks.bench import Bench, eventually
from tests.benchmarks.figures import Figures, Required
from tests.benchmarks.hook_calls import HookCaller, add_rule, add_webhook, at_rate, body_of
from tests.support.kafka import bootstrap_of
from tests.support.processes import python
from tests.support.rabbitmq import channel_of, declare
from triggers.services.sources import SourceSpec, create_source

#: Idle events of each channel and repeat, and the pause between two.
EVENTS = 60
PAUSE_SECONDS = 0.1
BUSY_SECONDS = 10.0
#: What is tried, in this order, until one does not hold.
BUSY_RATES = (100, 125, 150, 175, 200, 250, 300)
BUSY_P95_MS = 300

#: Sends the event of a message id, and returns when its transport has taken it.
Send = Callable[[str], None]


@contextlib.contextmanager
def webhook(bench: Bench) -> Iterator[Send]:
    caller = HookCaller(bench.web_port, add_webhook(bench, "idle"))

    def send(message_id: str) -> None:
        assert caller.send(message_id) == 202

    yield send


@contextlib.contextmanager
def rabbitmq(bench: Bench) -> Iterator[Send]:
    url = os.environ["UPBEAT_TEST_RABBITMQ_URL"]
    queue = declare(url, f"latency.{uuid.uuid4().hex[:8]}", delivery_limit=1000)
    create_source(tenant=bench.tenant, spec=SourceSpec("latency", "rabbitmq", {"queues": [queue]}), by="bench")
    command = ("manage.py", "run_triggers", "--source", "latency")
    process = python("rabbitmq", *command, environ={"UPBEAT_RABBITMQ_URL": url}, log=bench.directory / "rabbitmq.log")
    bench.processes["rabbitmq"] = process.start()
    process.wait_for_output("connected to RabbitMQ", within=60)
    with channel_of(url) as channel:

        def send(message_id: str) -> None:
            channel.basic_publish("", queue, body_of(message_id, "order.created", 500), mandatory=True)

        yield send
    bench.stop("rabbitmq")


@contextlib.contextmanager
def kafka(bench: Bench) -> Iterator[Send]:
    bootstrap = bootstrap_of(os.environ["UPBEAT_TEST_KAFKA_URL"])
    topic = f"latency-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 12, 1)])[topic].result(20)
    config = {"bootstrap": bootstrap, "topics": [topic], "group_id": topic}
    create_source(tenant=bench.tenant, spec=SourceSpec("latency-kafka", "kafka", config), by="bench")
    command = ("manage.py", "run_triggers", "--source", "latency-kafka")
    process = python("kafka", *command, environ={}, log=bench.directory / "kafka.log")
    bench.processes["kafka"] = process.start()
    process.wait_for_output("partitions assigned", within=60)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})

    def send(message_id: str) -> None:
        producer.produce(topic, body_of(message_id, "order.created", 500))
        assert producer.flush(10) == 0

    yield send
    bench.stop("kafka")


#: Channel → what opens it, and the milliseconds that half of its idle events may take. A channel that is opened brings
#: its source and its listener with it.
CHANNELS: Mapping[str, tuple[Callable[[Bench], contextlib.AbstractContextManager[Send]], float]] = {
    "webhook": (webhook, 40),
    "rabbitmq": (rabbitmq, 40),
    "kafka": (kafka, 60),
}


def measure(bench: Bench) -> Figures:
    bench.apply(shapes.single())
    add_rule(bench, "starts", "single", eventType="order.created")
    bench.start(web=True)
    found: dict[str, list[float]] = {}
    for name, (opened, _) in CHANNELS.items():
        with opened(bench) as send:
            _idle(send, f"{name}-warm", 10)
            found[name] = [
                ms for repeat in range(bench.repeat) for ms in _idle(send, f"{name}-{repeat}", EVENTS)
            ]  # fmt: skip
    busy_p95, busy_rate = _busy(bench)
    extra: dict[str, float] = {}
    required = []
    for name, (_, most) in CHANNELS.items():
        extra |= {f"{name}_p50_ms": statistics.median(found[name]), f"{name}_p99_ms": _percentile(found[name], 99)}
        required += [Required(f"{name}_p50_ms", at_most=most), Required(f"{name}_p99_ms", at_most=200)]
    return Figures(
        "event_latency",
        "ms",
        [max(statistics.median(sample) for sample in found.values())],
        [*required, Required("busy_p95_ms", at_most=BUSY_P95_MS)],
        settings=bench.settings | {"events": EVENTS * bench.repeat, "busy_seconds": BUSY_SECONDS, "busy_by": "webhook"},
        extra=extra | {"busy_p95_ms": busy_p95, "busy_rate": busy_rate},
    )


def _idle(send: Send, prefix: str, count: int) -> list[float]:
    sent = {}
    for number in range(count):
        time.sleep(PAUSE_SECONDS)
        message_id = f"{prefix}-{number}"
        sent[message_id] = time.time()
        send(message_id)
        eventually(lambda wanted=message_id: _started({wanted}), every=0.01, within=30)  # type: ignore[misc]
    return list(_latencies(sent).values())


def _busy(bench: Bench) -> tuple[float, float]:
    """Return p95 at the first rate, and the highest rate at which it is no more than it may be."""
    path = add_webhook(bench, "busy")
    first, holds = 0.0, 0.0
    for rate in BUSY_RATES:
        _, statuses, sent = at_rate(
            bench.web_port, path, rate=rate, seconds=BUSY_SECONDS, prefix=f"busy{rate}-{time.time_ns()}"
        )
        assert set(statuses) == {202}
        eventually(lambda wanted=sent: len(_started(wanted)) == len(wanted), within=120, every=0.5)  # type: ignore[misc]
        p95 = _percentile(list(_latencies(sent).values()), 95)
        first = first or p95
        if p95 > BUSY_P95_MS:
            break
        holds = rate
    return first, holds


def _started(message_ids: Mapping[str, float] | set[str]) -> dict[str, float]:
    """Return when the tasks of these events' runs have started, as far as they have."""
    rows = TaskRun.objects.filter(run__trigger__message_id__in=list(message_ids), started_at__isnull=False).values_list(
        "run__trigger__message_id", "started_at"
    )
    return {message_id: at.timestamp() for message_id, at in rows if at is not None}


def _latencies(sent: Mapping[str, float]) -> dict[str, float]:
    started = _started(sent)
    assert len(started) == len(sent), f"{len(sent) - len(started)} events started nothing"
    return {message_id: (started[message_id] - moment) * 1000 for message_id, moment in sent.items()}


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
