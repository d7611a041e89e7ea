"""What tests of the Kafka listener share: a topic, a source that reads it, a rule, messages whose effects are known."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from django.db import connection
from django.utils import timezone

from orchestrator.models import JobRun
from tests.support.factories import job_of
from tests.support.processes import Process, python
from tests.support.records import default_tenant
from tests.support.waiting import eventually
from triggers.models import DeadLetter, Event, EventKey, EventSource, Firing

#: A dead member's partitions are given to others after its session; brokers of tests allow so short a one.
SESSION_MS, HEARTBEAT_MS = 3000, 500


@dataclass(frozen=True, slots=True)
class Sent:
    """A message to be produced."""

    body: bytes
    key: str = ""
    partition: int | None = None


@dataclass(slots=True)
class Load:
    """Messages and what must come of them, however often they are delivered."""

    messages: list[Sent] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    firing: set[str] = field(default_factory=set)
    poison: int = 0


def event(message_id: str, *, amount: float = 2000, event_type: str = "order.created", **payload: Any) -> bytes:
    """An envelope of the contract; the stage's rule fires where the amount is above 1000."""
    return orjson.dumps(
        {
            "messageId": message_id,
            "eventType": event_type,
            "timestamp": timezone.now().isoformat(),
            "source": "order-service",
            "destination": "schedule-platform",
            "priority": "HIGH",
            "payload": {"orderId": message_id, "amount": amount, "currency": "CNY", **payload},
            "metadata": {"traceId": f"trace-{message_id}", "version": "1.0", "schema": "order.created.v1"},
        }
    )


def load(count: int, chance: random.Random, *, duplicates: float = 0.05, poison: float = 0.01, keys: int = 200) -> Load:
    """Orders, every second of which fires; some sent twice under another key, some that nobody can read."""
    found = Load()
    mark = f"{chance.randrange(16**8):08x}"
    for number in range(count):
        if chance.random() < poison:
            found.messages.append(Sent(b'{"messageId": "broken', key=f"k{chance.randrange(keys)}"))
            found.poison += 1
            continue
        message_id = f"{mark}-{number}"
        body = event(message_id, amount=2000 if number % 2 else 10)
        found.ids.add(message_id)
        if number % 2:
            found.firing.add(message_id)
        found.messages.append(Sent(body, key=f"k{number % keys}"))
        if chance.random() < duplicates:
            found.messages.append(Sent(body, key=f"k{chance.randrange(keys)}"))
    return found


class Stage:
    """One topic with its source, on a given broker and the test's database."""

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        *,
        partitions: int = 4,
        rule: bool = True,
        environ: Mapping[str, str] | None = None,
        topic: str = "",
        make: bool = True,
        **config: Any,
    ) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.topic = topic or f"t-{secrets.token_hex(5)}"
        self.partitions = partitions
        self.processes: list[Process] = []
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._watching: tuple[str, Consumer] | None = None
        #: Of the listeners; those of a test see its database.
        self.environ = {"UPBEAT_TEST_DATABASE_URL": database_url()} if environ is None else dict(environ)
        if make:
            self.make_topic()
        self.job = job_of("a", name=f"job-{secrets.token_hex(4)}")
        if rule:
            self.add_rule()
        self.source = EventSource.objects.create(
            tenant=default_tenant(),
            slug=f"s-{secrets.token_hex(4)}",
            kind="kafka",
            id_policy="transport",
            config={
                "bootstrap": bootstrap,
                "topics": [self.topic],
                "group_id": f"g-{secrets.token_hex(5)}",
                "session_timeout_ms": SESSION_MS,
                "heartbeat_interval_ms": HEARTBEAT_MS,
                **config,
            },
        )

    # --- what is there

    def add_rule(self, **more: Any) -> None:
        from triggers.services.rules import create_rule, spec_of

        form = {
            "ruleId": f"r-{secrets.token_hex(4)}",
            "ruleName": "Large orders",
            "eventType": "order.created",
            "condition": "payload.amount > 1000",
            "taskName": self.job.name,
            **more,
        }
        create_rule(tenant=default_tenant(), spec=spec_of(form), by="ada")

    def make_topic(self, **settings: Any) -> None:
        new = NewTopic(self.topic, self.partitions, 1, config={key: str(value) for key, value in settings.items()})
        self.admin.create_topics([new])[self.topic].result(20)
        eventually(lambda: self.topic in self.admin.list_topics(timeout=10).topics, saying="the topic is known")

    def produce(self, messages: Iterable[Sent | bytes]) -> None:
        """Send and wait for the broker's word on each."""
        refused: list[str] = []
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        for each in messages:
            one = each if isinstance(each, Sent) else Sent(each)
            place: dict[str, Any] = {} if one.partition is None else {"partition": one.partition}
            while True:
                try:
                    producer.produce(
                        self.topic,
                        one.body,
                        key=one.key or None,
                        on_delivery=lambda error, _: refused.append(str(error)) if error else None,
                        **place,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0
        assert not refused, refused[:3]

    # --- who reads

    def listener(self, *, crash: str = "", environ: Mapping[str, str] | None = None) -> Process:
        """Start a listener of the stage's source in a process of its own."""
        name = f"listener{len(self.processes) + 1}"
        arguments = ["-m", "tests.support.listening", self.source.slug, *(["--crash", crash] if crash else [])]
        process = python(
            name, *arguments, environ={**self.environ, **(environ or {})}, log=self.directory / f"{name}.log"
        )
        self.processes.append(process)
        return process.start()

    def close(self) -> None:
        if self._watching is not None:
            self._watching[1].close()
        for process in self.processes:
            if process.running:
                process.kill_tree()

    # --- what came of it

    def offsets(self) -> dict[int, tuple[int, int]]:
        """Partition → (committed or -1, next)."""
        watcher = self._watcher()
        found = {}
        for each in watcher.committed([TopicPartition(self.topic, n) for n in range(self.partitions)], timeout=20):
            found[each.partition] = (max(each.offset, -1), watcher.get_watermark_offsets(each, timeout=20)[1])
        return found

    def _watcher(self) -> Consumer:
        """A consumer that reads nothing: it asks what others have committed."""
        group = self.source.config["group_id"]
        if self._watching is None or self._watching[0] != group:
            settings = {
                "bootstrap.servers": self.bootstrap,
                "group.id": group,
                "log_level": 0,
                "topic.metadata.refresh.interval.ms": 1000,
            }
            self._watching = (group, Consumer(settings))
        return self._watching[1]

    def is_drained(self) -> bool:
        return all(committed == following or following == 0 for committed, following in self.offsets().values())

    def drain(self, *, within: float = 60.0) -> None:
        """Wait until every message is committed; shows what the listeners said if that does not happen."""
        try:
            eventually(self.is_drained, within=within, every=0.3, ignoring=(KafkaException,))
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.offsets()}\n{self.outputs()}") from None

    def outputs(self) -> str:
        return "\n".join(f"--- {p.name} ({p.exit_code})\n{p.output()[-3000:]}" for p in self.processes)

    def check(self, expected: Load) -> None:
        """Everything once, nothing twice, nothing healthy dead."""
        ids = set(Event.objects.values_list("message_id", flat=True))
        assert len(ids) == Event.objects.count() == EventKey.objects.count()
        assert ids == expected.ids
        runs = list(JobRun.objects.values_list("trigger_key", flat=True))
        fired = Firing.objects.filter(outcome="fired")
        by_event = dict(Event.objects.values_list("id", "message_id"))
        assert {by_event[event_id] for event_id in fired.values_list("event_id", flat=True)} == expected.firing
        assert len(runs) == fired.count() == len(expected.firing)
        assert DeadLetter.objects.count() == expected.poison
        assert set(DeadLetter.objects.values_list("reason", flat=True)) <= {"malformed"}


def database_url() -> str:
    """The test's own database, for other processes."""
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite://{settings['NAME']}"
    server = os.environ["UPBEAT_TEST_DATABASE_URL"].rpartition("/")[0]
    return f"{server}/{settings['NAME']}"


def launch_everything(*, within: float = 60.0) -> None:
    """Let the reconciler find what no listener launched, as it would after its grace period."""
    from orchestrator.ledger import reconciler
    from tests.support.factories import age

    def pending() -> int:
        waiting = list(JobRun.objects.filter(state="pending"))
        if waiting:
            age(*waiting, seconds=60)
            reconciler.round_of(lambda: True, may_expire=False)
        return JobRun.objects.filter(state="pending").count()

    eventually(lambda: pending() == 0, within=within, saying="every run is launched")
