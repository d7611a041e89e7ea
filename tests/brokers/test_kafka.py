"""The Kafka listener against a real Kafka: the whole way, and what happens at its edges."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType
from django.db import connection

from orchestrator.models import JobRun, Transition
from tests.support.deadly_words import DEADLY
from tests.support.kafka import OLD_VERSION, KafkaServer, start_kafka
from tests.support.kafka_mock import MockKafka
from tests.support.kafka_stage import Load, Sent, Stage, database_url, event, launch_everything, load
from tests.support.processes import Process, worker
from tests.support.proxy import Proxy
from tests.support.waiting import eventually, stays
from triggers.models import DeadLetter, Event, Listener, UncleanExit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill, pytest.mark.postgresql]

SOAK = bool(os.environ.get("SOAK"))
OUTAGE_SECONDS = 60 if SOAK else 6


@pytest.fixture
def stage(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(kafka_bootstrap, tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def database() -> Iterator[Proxy]:
    """The test's database through a door that can be shut."""
    parts = urlsplit(database_url())
    with Proxy(parts.hostname or "127.0.0.1", parts.port or 5432) as proxy:
        yield proxy


def through(proxy: Proxy) -> dict[str, str]:
    parts = urlsplit(database_url())
    return {
        "UPBEAT_TEST_DATABASE_URL": parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{proxy.port}").geturl()
    }


def state_of(process: Process) -> str:
    row = Listener.objects.filter(instance__endswith=f":{process.pid}").first()
    return row.state if row else ""


def reads(process: Process, partitions: int) -> None:
    """Wait until a listener has so many partitions."""

    def assigned() -> int:
        row = Listener.objects.filter(instance__endswith=f":{process.pid}").first()
        return len(row.assigned) if row else 0

    try:
        eventually(lambda: assigned() == partitions, within=40, saying=f"{partitions} partitions are assigned")
    except AssertionError as error:
        raise AssertionError(f"{error}: {process.output()[-3000:]}") from None


# --- the whole way


def test_messages_become_events_runs_and_dead_letters_and_are_committed(stage: Stage) -> None:
    expected = load(2000, random.Random(1))
    stage.produce(expected.messages)

    listener = stage.listener()
    stage.drain()

    stage.check(expected)
    launch_everything()
    assert Listener.objects.get().state == "ok"
    listener.stop()
    assert listener.exit_code == 0
    assert not Listener.objects.exists()
    assert not UncleanExit.objects.exists()


def test_the_protocol_of_kafka_4_reads_the_same(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    stage = Stage(kafka_bootstrap, tmp_path, group_protocol="consumer")
    for name in ("session_timeout_ms", "heartbeat_interval_ms"):
        del stage.source.config[name]
    stage.source.save()
    expected = load(1000, random.Random(2))
    stage.produce(expected.messages)
    try:
        first = stage.listener()
        eventually(lambda: Event.objects.count() > 0, within=40)
        second = stage.listener()
        reads(second, 2)
        stage.drain()
        stage.check(expected)
        for process in (first, second):
            process.stop()
            assert process.exit_code == 0
    finally:
        stage.close()


def test_an_older_kafka_reads_the_same(redis_url: str, tmp_path: Path) -> None:
    with start_kafka(OLD_VERSION) as server:
        stage = Stage(server.bootstrap, tmp_path)
        expected = load(1000, random.Random(3))
        stage.produce(expected.messages)
        try:
            stage.listener()
            stage.drain()
            stage.check(expected)
        finally:
            stage.close()


def test_what_a_record_says_beside_its_body_reaches_the_event(stage: Stage) -> None:
    stage.produce(
        [
            Sent(event("with-key"), key="customer-7", partition=2),
            Sent(b'{"eventType": "order.seen", "payload": {}}', partition=1),
        ]
    )
    stage.listener()
    stage.drain()

    keyed = Event.objects.get(message_id="with-key")
    assert (keyed.channel, keyed.part, keyed.off) == (f"kafka:{stage.topic}", f"{stage.topic}/2", 0)
    assert keyed.ordering_key == "customer-7"
    nameless = Event.objects.exclude(message_id="with-key").get()
    assert nameless.message_id.startswith(f"{stage.source.slug}/{stage.topic}/1/0/")
    assert nameless.source == stage.source.slug


# --- poison


def test_a_body_that_only_the_database_refuses_costs_its_neighbours_nothing(stage: Stage) -> None:
    bodies = [Sent(event(f"m{number}", note="\0" if number == 250 else ""), partition=0) for number in range(500)]
    stage.produce(bodies)
    stage.listener()
    stage.drain()

    assert Event.objects.count() == 499
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.off) == ("db_rejected", 250)
    assert bytes(letter.raw) == bodies[250].body
    runs = JobRun.objects.order_by("id").values_list("event_id", flat=True)
    offsets = dict(Event.objects.values_list("id", "off"))
    assert [offsets[event_id] for event_id in runs] == [n for n in range(500) if n != 250]


def test_whatever_a_record_holds_its_neighbours_are_read_and_its_bytes_are_kept(stage: Stage) -> None:
    huge = event("huge", note="x" * (5 << 20))
    poison = {
        b"": "malformed",
        b"\xef\xbb\xbf{}": "malformed",
        b"\xff\xfe": "malformed",
        b'{"payload": {"a": NaN}}': "malformed",
        b'{"payload": "\\ud800"}': "malformed",
        b'{"payload": {"a": 1e400}}': "malformed",
        b"[" * 2000: "malformed",
        b"[1, 2]": "not_object",
        b"null": "not_object",
        b'{"eventType": "order.created"}': "bad_field",
        b'{"eventType": "%s", "payload": {}}' % (b"x" * 10_000): "bad_field",
        b'{"eventType": "order.created", "payload": {}, "timestamp": "yesterday"}': "bad_field",
        b'{"eventType": "order.created", "payload": {}, "source": "platform"}': "reserved_source",
        huge: "too_large",
    }
    settings = {"bootstrap.servers": stage.bootstrap, "message.max.bytes": 8 << 20}
    resource = ConfigResource(
        ResourceType.TOPIC,
        stage.topic,
        incremental_configs=[
            ConfigEntry("max.message.bytes", str(8 << 20), incremental_operation=AlterConfigOpType.SET)
        ],
    )
    stage.admin.incremental_alter_configs([resource])[resource].result(10)
    producer = Producer(settings)
    for number, body in enumerate(poison):
        producer.produce(stage.topic, event(f"before-{number}"), partition=0)
        producer.produce(stage.topic, body, partition=0, headers={"x": b"\xff\x00"})
    producer.produce(stage.topic, None, key=b"tombstone", partition=0)
    producer.produce(stage.topic, event("last"), partition=0)
    assert producer.flush(30) == 0

    stage.listener()
    stage.drain()

    assert Event.objects.count() == len(poison) + 1
    found = {bytes(letter.raw): letter.reason for letter in DeadLetter.objects.all()}
    assert {body[:60]: reason for body, reason in found.items()} == {
        body[:60]: reason for body, reason in poison.items()
    }
    assert JobRun.objects.count() == len(poison) + 1


def test_a_message_that_kills_its_reader_among_a_thousand_healthy_ones_is_the_only_one_lost(stage: Stage) -> None:
    bodies = [Sent(event(f"m{number}"), partition=0) for number in range(1000)]
    bodies.insert(600, Sent(event("deadly", note=DEADLY.decode()), partition=0))
    stage.produce(bodies)
    deadly = {"DJANGO_SETTINGS_MODULE": "tests.support.deadly"}

    first = stage.listener(environ=deadly)
    eventually(lambda: first.exit_code == -signal.SIGSEGV, within=60, saying=f"it dies: {first.output()[-2000:]}")
    # What restarts it is the supervisor's business.
    stage.listener(environ=deadly)
    stage.drain(within=90)

    assert Event.objects.count() == JobRun.objects.count() == 1000
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.off) == ("crash_loop", 600)
    assert "SIGSEGV" in letter.error


def test_three_kills_of_a_healthy_listener_condemn_nothing(stage: Stage) -> None:
    expected = load(900, random.Random(4), poison=0)
    stage.produce(expected.messages)
    for _ in range(3):
        process = stage.listener(environ={"UPBEAT_LOG_LEVEL": "WARNING"}, crash="in_transaction:1")
        try:
            eventually(lambda: not process.running, within=60)  # noqa: B023
        except AssertionError:
            pytest.fail(stage.outputs())
    stage.listener()
    stage.drain()

    stage.check(expected)


# --- the database is away


def test_a_partition_assigned_during_an_outage_of_the_database_loses_nothing(stage: Stage, database: Proxy) -> None:
    expected = load(6000, random.Random(5))
    half = len(expected.messages) // 2
    held = stage.listener(environ=through(database))
    leaving = stage.listener()
    reads(held, 2)
    reads(leaving, 2)
    stage.produce(expected.messages[:half])
    eventually(lambda: Event.objects.count() > 0, within=40)

    database.cut()
    stage.produce(expected.messages[half:])
    time.sleep(1)
    leaving.stop()
    before = stage.offsets()
    time.sleep(OUTAGE_SECONDS)

    # An offset never passes what is durable, whoever holds it.
    assert stage.offsets() == before
    assert held.running, held.output()[-3000:]
    assert "partitions lost" not in held.output()
    database.restore()
    stage.drain()
    stage.check(expected)
    assert not DeadLetter.objects.exclude(reason="malformed").exists()


def test_a_partition_that_is_revoked_while_its_batch_is_held_is_its_new_owners(stage: Stage, database: Proxy) -> None:
    expected = load(3000, random.Random(6))
    held = stage.listener(environ=through(database))
    reads(held, 4)
    database.cut()
    stage.produce(expected.messages)
    eventually(lambda: "a batch is held" in held.output(), within=20)

    joined = stage.listener()
    reads(joined, 2)
    eventually(lambda: Event.objects.count() > len(expected.ids) // 4, within=40)
    mine = {part: offsets for part, offsets in stage.offsets().items() if offsets[0] == offsets[1]}
    database.restore()
    stage.drain()

    assert mine, "the new owner had committed something before the other came back"
    stage.check(expected)


def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(stage: Stage, database: Proxy) -> None:
    expected = load(2000, random.Random(7))
    held = stage.listener(environ=through(database))
    reads(held, 4)
    database.cut_on(b"COMMIT")
    stage.produce(expected.messages)
    stage.drain()

    assert database.sprung == 1
    stage.check(expected)
    launch_everything()


# --- the group


def test_each_refusal_of_a_commit_has_its_reaction(redis_url: str, tmp_path: Path) -> None:
    topic = "orders"
    with MockKafka({topic: 4}) as mock:
        stage = Stage(mock.bootstrap, tmp_path, make=False, topic=topic)
        try:
            listener = stage.listener()
            expected = Load()
            for number, name in enumerate(
                (
                    "",
                    "NOT_COORDINATOR",
                    "REQUEST_TIMED_OUT",
                    "ILLEGAL_GENERATION",
                    "UNKNOWN_MEMBER_ID",
                    "REBALANCE_IN_PROGRESS",
                )
            ):
                if name:
                    mock.fail_commits(name, 2)
                part = load(100, random.Random(number), poison=0)
                expected.ids |= part.ids
                expected.firing |= part.firing
                stage.produce(part.messages)
                stage.drain(within=40)
                assert listener.running, f"{name}: {listener.output()[-3000:]}"
            stage.check(expected)

            mock.fail_commits("TOPIC_AUTHORIZATION_FAILED", 2)
            stage.produce([event("refused")])
            eventually(lambda: listener.exit_code == 3, within=30, saying="going on cannot help")
            assert "TOPIC_AUTHORIZATION_FAILED" in listener.output()
        finally:
            stage.close()


def test_a_loop_that_was_too_slow_for_its_group_commits_nothing_stale(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    # While one batch is written the next is read: small ones, so that there is nothing more to be read for a while.
    stage = Stage(kafka_bootstrap, tmp_path, max_poll_interval_ms=10_000, batch_size=50)
    with connection.cursor() as cursor:
        cursor.execute(
            "create function sleep_on_slow() returns trigger language plpgsql as $$ begin "
            "if new.message_id = 'slow' then perform pg_sleep(12); end if; return new; end $$"
        )
        cursor.execute(
            "create trigger slow before insert on triggers_event for each row execute function sleep_on_slow()"
        )
    try:
        stage.produce([event("slow"), *(event(f"m{number}") for number in range(200))])
        listener = stage.listener()
        eventually(lambda: "partitions lost" in listener.output(), within=60)
        stage.drain()

        assert Event.objects.count() == JobRun.objects.count() == 201
        assert not DeadLetter.objects.exists()
        assert listener.running
    finally:
        stage.close()
        with connection.cursor() as cursor:
            cursor.execute("drop function sleep_on_slow() cascade")


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    own_kafka: KafkaServer, redis_url: str, tmp_path: Path
) -> None:
    stage = Stage(own_kafka.bootstrap, tmp_path)
    expected = load(3000, random.Random(8))
    half = len(expected.messages) // 2
    try:
        listener = stage.listener()
        stage.produce(expected.messages[:half])
        eventually(lambda: Event.objects.count() > 100, within=40)

        own_kafka.kill()
        time.sleep(3)
        assert listener.running
        own_kafka.start()
        stage.produce(expected.messages[half:])
        stage.drain(within=90)

        stage.check(expected)
        assert listener.running
    finally:
        stage.close()


def test_an_end_that_is_asked_for_leaves_nothing_to_be_read_again(stage: Stage) -> None:
    expected = load(8000, random.Random(9))
    stage.produce(expected.messages)
    first = stage.listener()
    eventually(lambda: Event.objects.count() > 500, within=40)

    began = time.monotonic()
    first.terminate()
    eventually(lambda: not first.running, within=25)

    assert first.exit_code == 0
    assert time.monotonic() - began < 20
    committed = sum(max(0, offset) for offset, _ in stage.offsets().values())
    written = Event.objects.count() + DeadLetter.objects.count()
    # Every committed message is there; those beyond were sent twice, and are there once.
    assert 0 < committed < len(expected.messages)
    read = {(row.part, row.off) for row in Event.objects.only("part", "off")}
    ends = {f"{stage.topic}/{part}": offset for part, (offset, _) in stage.offsets().items()}
    assert all(off < ends[part] for part, off in read if off is not None)
    assert written <= committed
    stage.listener()
    stage.drain()
    stage.check(expected)


def test_new_partitions_are_read_while_the_listener_runs(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    stage = Stage(kafka_bootstrap, tmp_path, partitions=2, extra={"topic.metadata.refresh.interval.ms": 2000})
    try:
        listener = stage.listener()
        stage.produce([Sent(event("before"), partition=1)])
        stage.drain()
        stage.admin.create_partitions([NewPartitions(stage.topic, 4)])[stage.topic].result(10)
        stage.partitions = 4
        eventually(lambda: len(stage.admin.list_topics(stage.topic, timeout=5).topics[stage.topic].partitions) == 4)
        stage.produce([Sent(event(f"after-{part}"), partition=part) for part in range(4)])

        stage.drain(within=60)
        assert Event.objects.count() == 5
        assert listener.running
    finally:
        stage.close()


def test_a_topic_that_is_made_anew_under_a_listener_is_read_from_its_beginning_and_told(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    # None of them has an id of its own: the place of a message in the new topic is not that of one in the old.
    stage = Stage(kafka_bootstrap, tmp_path, extra={"topic.metadata.refresh.interval.ms": 2000})
    try:
        listener = stage.listener()
        stage.produce([Sent(_nameless(number), partition=number % 4) for number in range(400)])
        stage.drain()
        stage.admin.delete_topics([stage.topic])[stage.topic].result(10)
        eventually(lambda: stage.topic not in stage.admin.list_topics(timeout=5).topics)
        stage.make_topic()
        stage.produce([Sent(_nameless(number), partition=number % 4) for number in range(400, 440)])

        eventually(lambda: Event.objects.count() == 440, within=60, saying="consumption goes on")
        assert JobRun.objects.count() == 440
        _told_of_a_gap(listener, "made anew")
        stage.drain()
    finally:
        stage.close()


def test_messages_that_were_deleted_before_they_were_read_are_told(stage: Stage) -> None:
    listener = stage.listener()
    stage.produce([Sent(event(f"early-{number}"), partition=0) for number in range(50)])
    stage.drain()
    listener.stop()
    stage.produce([Sent(event(f"late-{number}"), partition=0) for number in range(50)])
    for future in stage.admin.delete_records([TopicPartition(stage.topic, 0, 70)]).values():
        future.result(10)

    listener = stage.listener()
    stage.drain()

    assert Event.objects.count() == 80
    _told_of_a_gap(listener, "offsets 50 to 69 were deleted")


def test_a_commit_beyond_the_end_reads_from_the_beginning_and_starts_nothing_twice(stage: Stage) -> None:
    """As of a topic that was made anew, or set back to a backup, while the group kept its offsets."""
    expected = load(200, random.Random(11), poison=0)
    stage.produce(expected.messages)
    listener = stage.listener()
    stage.drain()
    listener.stop()
    far = [TopicPartition(stage.topic, part, 100_000) for part in range(4)]
    (answer,) = stage.admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(stage.source.config["group_id"], far)]
    ).values()
    answer.result(10)

    listener = stage.listener()
    stage.drain()

    stage.check(expected)
    _told_of_a_gap(listener, "made anew")


def _told_of_a_gap(listener: Process, words: str) -> None:
    gaps = Transition.objects.filter(subject="event_source", to_state="gap")
    told = eventually(gaps.first, within=20, saying="the gap is a fact")
    assert told.reason.startswith("source.gap")
    assert words in told.reason
    eventually(lambda: state_of(listener) == "failing", within=20, saying="its health says so")
    assert listener.running


def _nameless(number: int) -> bytes:
    return b'{"eventType": "order.created", "payload": {"amount": 5000, "number": %d}}' % number


def test_a_listener_that_reads_on_and_on_takes_no_more_memory(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    count = 1_000_000 if SOAK else 100_000
    stage = Stage(kafka_bootstrap, tmp_path, partitions=12, rule=False, max_poll_records=500)
    try:
        listener = stage.listener()
        stage.produce(event(f"m{number}") for number in range(count // 4))
        stage.drain(within=120)
        before = listener.tree()[0].memory_info().rss
        stage.produce(event(f"m{number}") for number in range(count // 4, count))
        stage.drain(within=count / 500)

        assert Event.objects.count() == count
        assert listener.tree()[0].memory_info().rss < before * 1.2 + (16 << 20)
    finally:
        stage.close()


# --- order and back-pressure


def test_reading_pauses_while_too_many_runs_wait_and_goes_on_after_a_rebalance(stage: Stage) -> None:
    limited = {"UPBEAT_UNLAUNCHED_LIMIT": "100", "UPBEAT_LAUNCH_INLINE": "0"}
    expected = load(3000, random.Random(10))
    stage.produce(expected.messages)
    first = stage.listener(environ=limited)
    eventually(lambda: state_of(first) == "paused", within=40, saying="it pauses")
    count = Event.objects.count()
    assert count < len(expected.ids)

    second = stage.listener(environ=limited)
    reads(second, 2)
    # Longer than the session: a member that does not poll would have been put out.
    stays(lambda: Event.objects.count() == count and state_of(first) == "paused", during=5, every=0.3)
    second.stop()
    reads(first, 4)

    def launched_until_drained() -> bool:
        launch_everything()
        return stage.is_drained()

    eventually(launched_until_drained, within=90, every=0.5)
    stage.check(expected)
    assert first.running


def test_runs_of_a_key_start_in_the_order_of_its_messages_across_a_rebalance(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    keys, each = (200, 50) if SOAK else (20, 10)
    stage = Stage(kafka_bootstrap, tmp_path, rule=False, batch_size=50)
    stage.add_rule(condition="", concurrency={"key": "payload.customerId", "max": 1, "onExceed": "queue"})
    bodies = [
        Sent(event(f"{key}-{number}", customerId=f"c{key}", number=number), key=f"c{key}")
        for number in range(each)
        for key in range(keys)
    ]
    logs = {"environ": stage.environ, "log": tmp_path / "worker.log"}
    options: dict[str, Any] = {"queues": "default,long,bulk,control", **logs}
    runner = worker("worker", "-P", "threads", "-c", "4", **options)
    third = len(bodies) // 3
    try:
        runner.start()
        first = stage.listener()
        stage.produce(bodies[:third])
        second = stage.listener()
        stage.produce(bodies[third : 2 * third])
        eventually(lambda: Event.objects.count() > third, within=40)
        first.stop()
        stage.produce(bodies[2 * third :])
        stage.drain()
        assert second.running

        def ended() -> bool:
            launch_everything_pending()
            return JobRun.objects.filter(state="succeeded").count() == len(bodies)

        eventually(ended, within=240 if SOAK else 90, every=1.0)
    finally:
        runner.stop()
        stage.close()
    numbers = dict(Event.objects.values_list("id", "message_id"))
    of_key: dict[str, list[tuple[Any, Any, int]]] = {}
    for run in JobRun.objects.order_by("started_at"):
        key, _, number = numbers[run.event_id].partition("-")
        of_key.setdefault(key, []).append((run.started_at, run.ended_at, int(number)))
    for runs in of_key.values():
        assert [number for _, _, number in runs] == list(range(each))
        assert all(ended <= started for (_, ended, _), (started, _, _) in itertools.pairwise(runs))


def launch_everything_pending() -> None:
    """One round of the reconciler, which stands behind every hint."""
    from orchestrator.ledger import reconciler

    reconciler.round_of(lambda: True, may_expire=False)
