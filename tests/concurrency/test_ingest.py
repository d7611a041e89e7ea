"""Ingest killed at every point, two writers with the same messages in opposite order, and a database that goes away.

The transports are the listeners' own tests' business: here a file stands for one.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from django.db import connection, connections
from django.utils import timezone

from orchestrator.models import JobRun
from orchestrator.services.recovery import Reconciler
from tests.support.factories import age
from tests.support.ingesting import body, message, orders, pipeline_of, rule_of, source_of, take
from tests.support.listeners import environment
from tests.support.processes import Process, python
from tests.support.waiting import eventually
from triggers.ingest import Infrastructure
from triggers.ingest.statements import postgresql
from triggers.models import DeadLetter, Event, EventKey, Firing
from triggers.services.rules import delete_rule

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.postgresql,
    pytest.mark.usefixtures("database_url", "broker"),
]
REPEATS = range(20 if os.environ.get("SOAK") else 1)
POINTS = ("after_poll", "decoded", "in_transaction", "after_transaction", "after_acknowledge", "during_launch")
PARTITIONS = 4


def in_own_connection(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    finally:
        connections.close_all()


# --- killed


@pytest.mark.kill
@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_it_loses_nothing_doubles_nothing_and_condemns_nothing(
    point: str, repeat: int, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choice = random.Random(seed)
    rule_of(condition="payload.amount > 1000")
    source_of("file")
    lines, ids, firing, poison = load(choice, 2000)
    messages, position = tmp_path / "messages", tmp_path / "position"
    messages.write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    environ = environment(UPBEAT_LAUNCH_INLINE="0" if point == "during_launch" else "100")

    crash = f"{point}:{choice.randint(1, 4)}"
    arguments = ("-m", "tests.support.ingest_child", "file", str(messages), str(position))
    killed = python("killed", *arguments, "--crash", crash, environ=environ, log=tmp_path / "killed.log").start()
    assert code_of(killed) == -signal.SIGKILL, killed.output()
    after = python("after", *arguments, environ=environ, log=tmp_path / "after.log").start()
    assert code_of(after) == 0, after.output()

    assert set(Event.objects.values_list("message_id", flat=True)) == ids
    assert Event.objects.count() == EventKey.objects.count() == len(ids)
    runs = JobRun.objects.all()
    assert {run.event["messageId"] for run in runs} == firing
    assert runs.count() == Firing.objects.filter(outcome="fired").count() == len(firing)
    assert DeadLetter.objects.count() == poison
    assert_order()
    assert_all_launched()


def code_of(process: Process) -> int | None:
    """Wait for the end of a process."""
    eventually(lambda: not process.running, within=90)
    return process.exit_code


def load(choice: random.Random, count: int) -> tuple[list[Any], set[str], set[str], int]:
    """Messages of four partitions, 5 in 100 of them duplicates and 1 in 100 poison, and what must come of them."""
    lines: list[Any] = []
    offsets = [0] * PARTITIONS
    sent: list[bytes] = []
    ids: set[str] = set()
    firing: set[str] = set()
    poison = 0
    for number in range(count):
        partition = choice.randrange(PARTITIONS)
        kind = choice.random()
        if kind < 0.01:
            content = b'{"eventType": ' + str(number).encode()
            poison += 1
        elif kind < 0.06 and sent:
            content = choice.choice(sent)
        else:
            amount = choice.choice([10, 2000])
            content = body(number, {"amount": amount, "n": number})
            sent.append(content)
            ids.add(f"msg-{number}")
            if amount > 1000:
                firing.add(f"msg-{number}")
        lines.append([f"business-events/{partition}", offsets[partition], f"key-{partition}", content.decode()])
        offsets[partition] += 1
    return lines, ids, firing, poison


def assert_order() -> None:
    """The runs of a partition stand in the order of its messages."""
    place = {pk: (part, off) for pk, part, off in Event.objects.values_list("pk", "part", "off")}
    last: dict[str, int] = {}
    for event_id in JobRun.objects.order_by("pk").values_list("event_id", flat=True):
        part, off = place[event_id]
        assert off > last.get(part, -1)
        last[part] = off


def assert_all_launched() -> None:
    reconciler = Reconciler()
    for _ in range(100):
        pending = list(JobRun.objects.filter(state="pending", reason="")[:2000])
        if not pending:
            return
        age(*pending, seconds=120)
        reconciler.tick()
        reconciler._next_round = 0.0
    raise AssertionError(f"{len(pending)} runs are still pending")


# --- two writers


@pytest.mark.parametrize("repeat", range(5))
def test_two_writers_with_the_same_messages_in_opposite_order_end_in_one_event_each(repeat: int) -> None:
    rule_of()
    first, second = pipeline_of(source_of("one")), pipeline_of(source_of("two"))
    batch = orders(300)
    gate = threading.Barrier(2)

    def write(pipeline: Any, messages: Any) -> Any:
        prepared = pipeline.prepare(messages, timezone.now())
        gate.wait(10)
        return pipeline.write(prepared)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(in_own_connection, write, first, batch)
        other = pool.submit(in_own_connection, write, second, batch[::-1])
        counts = one.result(60).counts + other.result(60).counts

    assert counts == {"matched": 300, "duplicate": 300}
    assert JobRun.objects.count() == Event.objects.count() == 300


def test_two_listeners_at_once_let_one_event_of_a_key_through_a_dedupe() -> None:
    rule_of(dedupe={"key": "payload.key", "window": "10m"})
    pipelines = [pipeline_of(source_of(name)) for name in ("one", "two")]
    gate = threading.Barrier(2)

    def write(number: int) -> Any:
        gate.wait(10)
        batch = [message(body(f"{number}-{n}", {"key": n % 7}), n, partition=number) for n in range(50)]
        return take(batch, pipelines[number])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(in_own_connection, write, number) for number in range(2)]:
            done.result(60)

    assert Firing.objects.filter(outcome="fired").count() == JobRun.objects.count() == 7
    assert Firing.objects.filter(outcome="suppressed").count() == 93


def test_a_rule_that_is_deleted_while_a_batch_is_written_leaves_no_run_that_starts() -> None:
    rule = rule_of()
    pipeline = pipeline_of()
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        go_on.wait(1.5)

    prepared = pipeline.prepare(orders(5), timezone.now())
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(in_own_connection, lambda: pipeline.write(prepared, hook=wait))
        inside.wait(10)
        deleting = pool.submit(in_own_connection, lambda: delete_rule(tenant=rule.tenant, slug=rule.slug, by="ada"))
        go_on.wait(0.5)
        go_on.set()
        written = writing.result(30)
        deleting.result(30)

    assert written.counts == {"matched": 5}
    assert set(JobRun.objects.values_list("state", "reason")) == {("cancelled", "rule_deleted")}


# --- a batch of which a part is durable


def test_what_was_durable_is_launched_although_the_rest_had_to_be_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule_of()
    pipeline = pipeline_of()
    prepared = pipeline.prepare(orders(100), timezone.now())
    insert = postgresql.insert_events

    def fails(cursor: Any, events: Any, **fields: Any) -> None:
        if len(events) == 100:
            raise psycopg.errors.NumericValueOutOfRange("refused: halve it")
        if events[-1].item.received.off == 99:
            raise psycopg.errors.AdminShutdown("terminating connection")
        insert(cursor, events, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(postgresql, "insert_events", fails)
        with pytest.raises(Infrastructure):
            pipeline.write(prepared)
    assert JobRun.objects.count() == 50

    written = pipeline.write(prepared)

    assert written.run_ids == sorted(JobRun.objects.values_list("pk", flat=True))
    assert len(written.run_ids) == 100


# --- the database goes away


def test_a_connection_that_died_while_idle_is_replaced_without_a_word() -> None:
    pipeline = pipeline_of()
    take(orders(1), pipeline)
    with psycopg.connect(url_of_this_test(), autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s)", [connection.connection.info.backend_pid])

    assert take(orders(1, first=1), pipeline).counts == {"no_match": 1}


def test_a_connection_that_is_cut_in_the_transaction_holds_the_batch_or_writes_it_once() -> None:
    rule_of()
    pipeline = pipeline_of()
    cut: list[int] = []

    def cut_it() -> None:
        if len(cut) < 3:
            cut.append(1)
            with psycopg.connect(url_of_this_test(), autocommit=True) as other:
                other.execute("select pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
            connection.cursor().execute("select 1")

    prepared = pipeline.prepare(orders(10), timezone.now())
    with pytest.raises(Infrastructure):
        pipeline.write(prepared, hook=cut_it)
    written = pipeline.write(prepared)

    assert written.counts == {"matched": 10}
    assert not DeadLetter.objects.exists()


def test_a_row_that_somebody_holds_gives_the_batch_back_within_its_time_outs() -> None:
    rule = rule_of()
    pipeline = pipeline_of()
    prepared = pipeline.prepare(orders(3), timezone.now())
    with psycopg.connect(url_of_this_test()) as other:
        other.execute("select 1 from triggers_triggerrule where id = %s for update", [rule.pk])
        with pytest.raises(Infrastructure):
            pipeline.write(prepared)

    assert pipeline.write(prepared).counts == {"matched": 3}


def url_of_this_test() -> str:
    return environment()["UPBEAT_TEST_DATABASE_URL"]
