"""The RabbitMQ listener on a real broker and a real database: killed, cut off, stalled, poisoned."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from cryptography.fernet import Fernet
from django.db import connection, connections

from orchestrator.conf import options
from orchestrator.models import JobRun, Tenant
from orchestrator.services.recovery import Reconciler
from orchestrator.services.secrets import set_secret
from tests.support.deadly_words import DEADLY
from tests.support.endpoints import new_endpoint
from tests.support.factories import age, job_of
from tests.support.listeners import environment, listener
from tests.support.processes import python
from tests.support.rabbitmq import Proxy, channel_of, declare, event, flood, length, publish, take_all
from tests.support.services import RabbitServer
from tests.support.tls import Authority, started_with_tls
from tests.support.waiting import eventually, stays
from tests.support.webhooks import generic
from triggers.ingest import Infrastructure, Launcher, crash
from triggers.listeners import rabbitmq
from triggers.listeners.health import Health
from triggers.listeners.rabbitmq import RabbitListener
from triggers.models import DeadLetter, Event, EventKey, EventSource, Firing, Listener, UncleanExit
from triggers.services import receiving
from triggers.services.rules import create_rule, spec_of
from triggers.services.sources import SourceSpec, create_source
from triggers.sources.rabbitmq import Address

pytestmark = [
    pytest.mark.kill,
    pytest.mark.postgresql,
    pytest.mark.django_db(transaction=True),
]
REPEATS = range(20 if os.environ.get("SOAK") else 1)


@pytest.fixture
def queue(rabbitmq_url: str) -> str:
    """A queue of the test's own, with the arguments that a source's queue gets."""
    return declare(rabbitmq_url, f"orders.{uuid.uuid4().hex[:8]}", delivery_limit=1000)


@pytest.fixture(autouse=True)
def _broker_of_sources(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What UPBEAT_RABBITMQ_URL would be for the listeners that run inside of the test."""
    monkeypatch.setattr("triggers.sources.rabbitmq.default_address", lambda: Address.of_url(rabbitmq_url))
    # One for all listeners of a process: slow writes of one test would stall the next.
    monkeypatch.setattr(rabbitmq, "stall_reason", lambda: None)


def tenant() -> Tenant:
    return Tenant.objects.get(slug="default")


def source_of(*queues: str, **config: Any) -> EventSource:
    spec = SourceSpec("orders", "rabbitmq", {"queues": list(queues), **config})
    return create_source(tenant=tenant(), spec=spec, by="ada")


def rule_of(condition: str = "", **more: Any) -> None:
    form = {
        "ruleId": f"rule-{uuid.uuid4().hex[:8]}",
        "eventType": "order.created",
        "taskName": job_of("work").name,
        "condition": condition,
        **more,
    }
    create_rule(tenant=tenant(), spec=spec_of(form), by="ada")


class Inside:
    """A listener in a thread of the test, whose parts can be reached."""

    def __init__(self, source: EventSource) -> None:
        self.stop = threading.Event()
        self.health = Health("rabbitmq", source)
        self.it = RabbitListener(source, stop=self.stop, health=self.health)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with contextlib.closing(Launcher()) as launcher:
                self.it.run(launcher)
        finally:
            self.health.close()
            connections.close_all()

    def __enter__(self) -> Inside:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@dataclass(slots=True)
class Load:
    """Messages, and what must come of them however often they are delivered."""

    bodies: list[bytes] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    firing: set[str] = field(default_factory=set)
    malformed: int = 0

    @classmethod
    def of(cls, count: int, chance: random.Random) -> Load:
        """Every second one fires; 5 % come twice, 1 % cannot be read."""
        found = cls()
        for number in range(count):
            if chance.random() < 0.01:
                found.bodies.append(b"no JSON %d" % number)
                found.malformed += 1
                continue
            body = orjson.dumps(event(number, amount=2000 if number % 2 else 10))
            found.ids.add(f"msg-{number}")
            if number % 2:
                found.firing.add(f"msg-{number}")
            found.bodies.append(body)
            if chance.random() < 0.05:
                found.bodies.append(body)
        return found

    def check(self) -> None:
        """Everything once, nothing twice, nothing healthy dead."""
        names = dict(Event.objects.values_list("id", "message_id"))
        assert sorted(names.values()) == sorted(self.ids)
        assert EventKey.objects.count() == len(self.ids)
        fired = Firing.objects.filter(outcome="fired")
        assert sorted(names[event_id] for event_id in fired.values_list("event_id", flat=True)) == sorted(self.firing)
        assert JobRun.objects.count() == len(self.firing)
        assert [*DeadLetter.objects.values_list("reason", flat=True)] == ["malformed"] * self.malformed


def drained(url: str, queue: str) -> bool:
    return length(url, queue) == 0 and Listener.objects.filter(assigned__has_key=queue).exists()


def launch_the_rest() -> None:
    """What the reconciler does once the grace period is over."""
    for run in JobRun.objects.filter(state="pending"):
        age(run, seconds=120)
    reconciler = Reconciler()
    eventually(lambda: reconciler.tick() is not None and not JobRun.objects.filter(state="pending").exists(), within=20)
    reconciler.leadership.resign()


def test_a_message_becomes_an_event_a_run_and_is_acknowledged(rabbitmq_url: str, queue: str, tmp_path: Path) -> None:
    source_of(queue)
    rule_of("payload.orderId == '1'")
    publish(rabbitmq_url, queue, [event(1), event(2)], type="t", app_id="shop", headers={"X-Tenant": "a", "n": 7})

    with listener("orders", log=tmp_path / "log") as process:
        eventually(lambda: Event.objects.count() == 2, within=30)
        eventually(lambda: JobRun.objects.filter(state="running").count() == 1, within=10)
        process.terminate()
        eventually(lambda: process.exit_code == 0, within=20)

    first = Event.objects.get(message_id="msg-1")
    assert first.channel == f"rabbitmq:{queue}"
    assert first.part == queue
    assert first.headers == {
        "amqp-app-id": "shop",
        "amqp-exchange": "",
        "amqp-routing-key": queue,
        "amqp-type": "t",
        "n": "7",
        "x-tenant": "a",
    }
    assert length(rabbitmq_url, queue) == 0
    assert not UncleanExit.objects.exists()


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize(
    "point", ["after_poll", "decoded", "in_transaction", "after_transaction", "after_acknowledge", "during_launch"]
)
def test_a_listener_killed_at_any_point_loses_and_doubles_nothing(
    point: str, repeat: int, rabbitmq_url: str, queue: str, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    load = Load.of(300, chance)
    source_of(queue, batch=100)
    rule_of("payload.amount > 1000")
    flood(rabbitmq_url, queue, load.bodies)
    # Few enough to be launched by hints, between which the point `during_launch` lies.
    few = {"UPBEAT_LAUNCH_INLINE": "5"} if point == "during_launch" else {}
    crash_at = f"{point}:{chance.randint(1, 2)}"

    with listener("orders", log=tmp_path / "killed", crash=crash_at, environ=few) as killed:
        eventually(lambda: killed.exit_code == -signal.SIGKILL, within=40, saying=f"it dies {crash_at}")
    with listener("orders", log=tmp_path / "next"):
        eventually(lambda: Event.objects.count() == len(load.ids) and drained(rabbitmq_url, queue), within=40)

    load.check()
    launch_the_rest()
    assert length(rabbitmq_url, queue) == 0


def test_one_message_that_kills_its_reader_is_found_among_a_thousand_and_the_others_run(
    rabbitmq_url: str, queue: str, tmp_path: Path
) -> None:
    source_of(queue)
    rule_of("payload.amount > 1000")
    bodies = [orjson.dumps(event(n, amount=2000)) for n in range(1000)]
    bodies.insert(600, orjson.dumps(event("deadly", text=DEADLY.decode())))
    flood(rabbitmq_url, queue, bodies)
    deadly = {"DJANGO_SETTINGS_MODULE": "tests.support.deadly"}
    deaths = 0

    process = listener("orders", log=tmp_path / "log", environ=deadly)
    try:
        process.start()

        def all_there() -> bool:
            nonlocal deaths
            if not process.running:
                assert process.exit_code == -signal.SIGSEGV, process.output()[-2000:]
                deaths += 1
                process.start()
            return JobRun.objects.count() == 1000 and drained(rabbitmq_url, queue)

        eventually(all_there, within=120, every=0.2)
        # The mark of the dead one goes once its messages are through, our own when this process leaves.
        eventually(lambda: UncleanExit.objects.count() == 1, within=10)
    finally:
        process.stop()

    letter = DeadLetter.objects.get()
    assert letter.reason == "crash_loop"
    assert "SIGSEGV" in letter.error
    assert bytes(letter.raw) == bodies[600]
    assert Event.objects.count() == 1000
    assert deaths == 1
    assert not UncleanExit.objects.exists()


def test_three_kills_of_a_healthy_listener_condemn_nothing(rabbitmq_url: str, queue: str, tmp_path: Path) -> None:
    source_of(queue, batch=50)
    rule_of("payload.amount > 1000")
    load = Load.of(400, random.Random(3))
    flood(rabbitmq_url, queue, load.bodies)

    for number in range(3):
        with listener("orders", log=tmp_path / str(number)) as process:
            seen = Event.objects.count()
            eventually(lambda seen=seen: Event.objects.count() > seen, within=40)
            process.kill()
    with listener("orders", log=tmp_path / "last"):
        eventually(lambda: Event.objects.count() == len(load.ids) and drained(rabbitmq_url, queue), within=40)

    load.check()


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    own_rabbitmq: RabbitServer, tmp_path: Path
) -> None:
    url = own_rabbitmq.url
    declare(url, "orders", delivery_limit=1000)
    source_of("orders")
    rule_of("payload.amount > 1000")
    load = Load.of(400, random.Random(19))
    publish(url, "orders", load.bodies[:200])
    quick = {"triggers.listeners.rabbitmq.QUIET_SECONDS": 0.002}

    with listener("orders", log=tmp_path / "log", constants=quick, environ={"UPBEAT_RABBITMQ_URL": url}) as process:
        eventually(lambda: Event.objects.count() > 50, within=30)
        own_rabbitmq.kill()
        own_rabbitmq.start()
        eventually(lambda: publish(url, "orders", load.bodies[200:]), within=30, ignoring=(Exception,))
        eventually(lambda: Event.objects.count() == len(load.ids) and drained(url, "orders"), within=60)
        assert process.running

    load.check()


def test_a_connection_that_is_cut_between_commit_and_acknowledgement_costs_nothing(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "RECONNECT", (0.1, 0.5))
    proxy = Proxy(rabbitmq_url)
    there = Address("127.0.0.1", proxy.port)
    monkeypatch.setattr("triggers.sources.rabbitmq.default_address", lambda: there)
    source = source_of(queue, batch=50)
    rule_of("payload.amount > 1000")
    load = Load.of(200, random.Random(7))
    flood(rabbitmq_url, queue, load.bodies)
    cuts = iter(range(3))

    def cut(**_: Any) -> None:
        if next(cuts, None) is not None:
            proxy.cut()

    crash.after_transaction.connect(cut)
    try:
        with Inside(source):
            eventually(
                lambda: Event.objects.count() == len(load.ids) and drained(rabbitmq_url, queue),
                within=30,
                saying="all is read",
            )
    finally:
        crash.after_transaction.disconnect(cut)
        proxy.close()

    load.check()
    assert proxy.connections == 4


def test_a_channel_that_the_broker_closes_over_an_acknowledgement_is_opened_again(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "RECONNECT", (0.1, 0.5))
    source = source_of(queue, batch=20)
    rule_of("payload.amount > 1000")
    load = Load.of(100, random.Random(8))
    flood(rabbitmq_url, queue, load.bodies)
    closed = []

    with Inside(source) as inside:

        def spoil(**_: Any) -> None:
            if not closed:
                lane = inside.it.lanes[0]
                closed.append(lane.channel)
                # A tag that this channel never had: 406, and the channel is gone.
                lane.channel.basic_ack(10**6)

        crash.after_transaction.connect(spoil)
        try:
            eventually(lambda: Event.objects.count() == len(load.ids) and drained(rabbitmq_url, queue), within=30)
        finally:
            crash.after_transaction.disconnect(spoil)
        assert not closed[0].is_open

    load.check()


@contextlib.contextmanager
def locked_table() -> Iterator[None]:
    """Nobody can write events meanwhile."""
    name = connection.settings_dict["NAME"]
    url = f"{os.environ['UPBEAT_TEST_DATABASE_URL'].rpartition('/')[0]}/{name}"
    with psycopg.connect(url) as other:
        other.execute("lock table triggers_eventkey in access exclusive mode")
        yield


def test_a_stall_longer_than_two_heartbeats_keeps_the_connection_and_burns_no_delivery(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(queue, heartbeat_seconds=5)
    rule_of()
    seen: list[Any] = []

    with Inside(source) as inside:
        eventually(lambda: inside.it.connection is not None, within=20)
        first = inside.it.connection
        with locked_table():
            publish(rabbitmq_url, queue, [event(1)])
            eventually(lambda: Listener.objects.exclude(reason="").exists(), within=15)
            stays(lambda: inside.it.connection is first and first.is_open, during=14)
        eventually(lambda: Event.objects.count() == 1, within=20)
        eventually(lambda: drained(rabbitmq_url, queue), within=10)
        assert inside.it.connection is first
        seen += Event.objects.values_list("headers", flat=True)

    assert "redelivered" not in seen[0]
    assert not DeadLetter.objects.exists()


def test_messages_that_are_held_for_too_long_are_given_back_once_and_written_once(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "STALL_SECONDS", 1.0)
    source = source_of(queue)
    rule_of()

    with Inside(source) as inside:
        eventually(lambda: inside.it.connection is not None, within=20)
        with locked_table():
            publish(rabbitmq_url, queue, [event(n) for n in range(10)])
            eventually(lambda: inside.it.connection is None, within=20, saying="it stands aside")
            # Whoever else reads could have them now.
            eventually(lambda: length(rabbitmq_url, queue) == 10, within=5)
            stays(lambda: inside.it.connection is None, during=3)
        eventually(lambda: Event.objects.count() == 10 and drained(rabbitmq_url, queue), within=30)

    assert JobRun.objects.count() == 10
    assert not DeadLetter.objects.exists()


def test_a_batch_that_could_not_be_written_at_the_end_is_not_acknowledged_with_the_next_one(
    rabbitmq_url: str, queue: str
) -> None:
    source = source_of(queue, batch=5)
    flood(rabbitmq_url, queue, [orjson.dumps(event(n)) for n in range(10)])
    inside = Inside(source)
    refused: list[bool] = []

    def refuse_once(**_: Any) -> None:
        if not refused:
            refused.append(True)
            inside.stop.set()
            raise Infrastructure("the database is away, for a moment")

    crash.in_transaction.connect(refuse_once)
    try:
        with inside:
            eventually(lambda: not inside.thread.is_alive(), within=30)
    finally:
        crash.in_transaction.disconnect(refuse_once)

    left = {orjson.loads(body)["messageId"] for _, _, body in take_all(rabbitmq_url, queue)}
    assert refused
    assert left | set(Event.objects.values_list("message_id", flat=True)) == {f"msg-{n}" for n in range(10)}


def test_back_pressure_stops_reading_and_says_so_and_then_goes_on(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason: list[str] = ["unlaunched: 20001 runs wait for their launch"]
    monkeypatch.setattr(rabbitmq, "stall_reason", lambda: reason[0] if reason else None)
    source = source_of(queue)
    publish(rabbitmq_url, queue, [event(n) for n in range(10)])

    with Inside(source):
        eventually(lambda: Listener.objects.filter(state="paused", reason__startswith="unlaunched").exists(), within=20)
        stays(lambda: not Event.objects.exists(), during=2)
        reason.clear()
        eventually(lambda: Event.objects.count() == 10 and drained(rabbitmq_url, queue), within=20)
        eventually(lambda: Listener.objects.filter(state="ok").exists(), within=10)


def test_a_queue_that_cannot_be_read_is_named_and_the_others_are_served(
    rabbitmq_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "RECONNECT", (0.2, 0.5))
    late = f"late.{uuid.uuid4().hex[:8]}"
    source = source_of(late, queue)
    publish(rabbitmq_url, queue, [event(1)])

    with Inside(source):
        eventually(lambda: Event.objects.count() == 1, within=20)
        eventually(lambda: Listener.objects.filter(reason__contains=f"{late}: NOT_FOUND").exists(), within=10)
        assert Listener.objects.get().state == "degraded"
        # Other arguments than ours are nothing to a reader.
        with channel_of(rabbitmq_url) as channel:
            channel.queue_declare(late, durable=True, arguments={"x-max-length": 3})
        publish(rabbitmq_url, late, [event(2)])
        publish(rabbitmq_url, queue, [event(3)])
        eventually(lambda: Event.objects.count() == 3, within=20)
        eventually(lambda: Listener.objects.filter(state="ok").exists(), within=15)


def test_run_triggers_gives_each_queue_a_process_of_its_own(rabbitmq_url: str, queue: str, tmp_path: Path) -> None:
    second = declare(rabbitmq_url, f"{queue}.second", delivery_limit=1000)
    source_of(queue, second)
    publish(rabbitmq_url, queue, [event(1)])
    publish(rabbitmq_url, second, [event(2)])
    command = ("manage.py", "run_triggers", "--source", "orders")

    with python("run_triggers", *command, environ=environment(), log=tmp_path / "log") as process:
        eventually(lambda: Event.objects.count() == 2, within=60)
        eventually(lambda: Listener.objects.count() == 2, within=10)
        assert {tuple(row) for row in Listener.objects.values_list("assigned", flat=True)} == {(queue,), (second,)}
        process.terminate()
        eventually(lambda: process.exit_code == 0, within=30)


def test_a_message_that_nobody_can_read_is_a_dead_letter_at_once_and_is_never_given_back(
    rabbitmq_url: str, queue: str
) -> None:
    source = source_of(queue)
    # The contract's way counts retries in this header and requeues: it would come for ever.
    publish(rabbitmq_url, queue, [b"{", orjson.dumps(event(1) | {"messageId": None})], headers={"retry-count": 0})

    with Inside(source):
        eventually(lambda: DeadLetter.objects.count() == 2 and drained(rabbitmq_url, queue), within=20)

    assert set(DeadLetter.objects.values_list("reason", "tries")) == {("malformed", 1), ("no_id", 1)}
    assert take_all(rabbitmq_url, queue) == []


@pytest.fixture
def stored_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {**options()._values, "UPBEAT_ENCRYPTION_KEYS": (Fernet.generate_key().decode(),)}
    monkeypatch.setattr(options(), "_values", keys)


@pytest.mark.usefixtures("stored_secrets")
def test_one_id_with_two_bodies_by_webhook_and_by_queue_is_one_event_and_a_visible_conflict(
    rabbitmq_url: str, queue: str
) -> None:
    endpoint = new_endpoint("generic", slug="shop")
    source = source_of(queue)
    rule_of()
    by_webhook = orjson.dumps(event(1, amount=10))
    assert endpoint.call(by_webhook, generic(by_webhook)).status_code == 202
    # Its thread would keep the test's database open.
    receiving.launcher().close()
    receiving.launcher.cache_clear()
    publish(rabbitmq_url, queue, [event(1, amount=99), event(1, amount=10)])

    with Inside(source):
        eventually(lambda: DeadLetter.objects.exists() and drained(rabbitmq_url, queue), within=20)

    assert Event.objects.get().payload["amount"] == 10
    assert Event.objects.get().channel == "webhook:shop"
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.message_id, letter.tries) == ("conflict", "msg-1", 1)
    assert orjson.loads(bytes(letter.raw))["payload"]["amount"] == 99
    assert JobRun.objects.count() == 1


@pytest.mark.usefixtures("stored_secrets")
def test_a_source_speaks_amqps_to_the_broker_of_its_authority_and_to_no_other() -> None:
    authority, stranger = Authority(), Authority()
    with started_with_tls(authority) as server:
        declare(server.url, "orders")
        set_secret(tenant=tenant(), name="rabbit-password", value="guest", by="ada")
        set_secret(tenant=tenant(), name="rabbit-ca", value=authority.pem, by="ada")
        spec = SourceSpec(
            "orders",
            "rabbitmq",
            {"queues": ["orders"], "host": "127.0.0.1", "port": server.tls_port, "user": "guest", "tls": True},
            {"password": "rabbit-password", "ca": "rabbit-ca"},
        )
        source = create_source(tenant=tenant(), spec=spec, by="ada")
        publish(server.url, "orders", [event(1)])

        with Inside(source):
            eventually(lambda: Event.objects.count() == 1 and drained(server.url, "orders"), within=20)

        set_secret(tenant=tenant(), name="rabbit-ca", value=stranger.pem, by="ada")
        publish(server.url, "orders", [event(2)])
        with Inside(source):
            told = Listener.objects.filter(reason__contains="certificate verify failed")
            eventually(told.exists, within=20)
        assert Event.objects.count() == 1


def test_the_amqp_properties_of_an_event_are_read_in_all_of_their_forms(rabbitmq_url: str, queue: str) -> None:
    source = source_of(queue)
    rule_of()
    headers = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": "ce-1",
        "cloudEvents:type": "order.created",
        "cloudEvents:source": "shop",
    }
    publish(rabbitmq_url, queue, [{"orderId": "1"}], headers=headers)
    publish(rabbitmq_url, queue, [event(2) | {"messageId": None}], message_id="from-amqp", timestamp=1_767_225_600)
    odd = {"nul": "a\0b", "list": [1, "x"], "table": {"a": True}, "none": None, "bytes": b"\xff"}
    publish(rabbitmq_url, queue, [event(3)], headers=odd, timestamp=2**63)

    with Inside(source):
        eventually(lambda: Event.objects.count() == 3 and drained(rabbitmq_url, queue), within=20)

    assert Event.objects.get(message_id="ce-1").payload == {"orderId": "1"}
    assert Event.objects.get(message_id="ce-1").source == "shop"
    assert Event.objects.filter(message_id="from-amqp").exists()
    kept = Event.objects.get(message_id="msg-3").headers
    assert {name: kept[name] for name in odd} == {
        "nul": "a\\x00b",
        "list": '[1,"x"]',
        "table": '{"a":true}',
        "none": "",
        "bytes": "\\xff",
    }
    assert not DeadLetter.objects.exists()


def test_a_reader_that_leaves_in_order_leaves_nothing_unacknowledged(
    rabbitmq_url: str, queue: str, caplog: Any
) -> None:
    source = source_of(queue, batch=50)
    load = Load.of(2000, random.Random(15))
    flood(rabbitmq_url, queue, load.bodies)

    with caplog.at_level(logging.WARNING), Inside(source):
        eventually(lambda: Event.objects.count() > 100, within=20)

    # What was written is acknowledged, what was not is in the queue.
    left = {orjson.loads(body)["messageId"] for _, _, body in take_all(rabbitmq_url, queue) if body[:1] == b"{"}
    events = set(Event.objects.values_list("message_id", flat=True))
    assert len(events) > 100
    assert events | left == load.ids
    doubled = {
        orjson.loads(body)["messageId"] for body in load.bodies if load.bodies.count(body) > 1 and body[:1] == b"{"
    }
    assert events & left <= doubled
    assert not [r for r in caplog.records if r.name.startswith("triggers.listeners")]
    assert not UncleanExit.objects.exists()
