"""One transaction a batch: what messages become, what is known already, what cannot be used."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import orjson
import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.models import JobRun, Tenant, Transition
from orchestrator.services.jobs import archive_job, pause_job, resume_job
from orchestrator.services.runs import launch_runs
from tests.support.factories import job_of
from tests.support.ingesting import body, message, orders, pipeline_of, prepared, rule_of, source_of, take
from triggers.envelope import Envelope, dedupe_key, fingerprint
from triggers.ingest import write
from triggers.ingest.batch import Infrastructure, SourceView
from triggers.ingest.prepare import key_of
from triggers.models import DeadLetter, Event, EventKey, Firing
from triggers.services.rules import delete_rule

pytestmark = pytest.mark.django_db
postgresql = pytest.mark.postgresql


# --- what a message becomes


def test_a_message_becomes_an_event_a_firing_and_a_pending_run():
    rule = rule_of(parameters={}, condition="payload.amount > 1000")

    written = take([message(body(1), 7, key="customer-1")])

    event, firing, run = Event.objects.get(), Firing.objects.get(), JobRun.objects.get()
    assert (event.state, event.message_id, event.part, event.off) == ("matched", "msg-1", "business-events/0", 7)
    assert (event.payload, event.ordering_key) == ({"orderId": "o-1", "amount": 1500}, "customer-1")
    assert (firing.rule_id, firing.event_id, firing.outcome, firing.job_run_id) == (rule.pk, event.pk, "fired", run.pk)
    assert (run.state, run.reason, run.event_id, run.trigger_key) == (
        "pending", "", event.pk, f"rule:{rule.pk}:{event.pk}:0",
    )  # fmt: skip
    assert run.event["messageId"] == "msg-1"
    assert run.event["payload"] == {"orderId": "o-1", "amount": 1500}
    assert (run.root_event_id, run.depth, run.rule_chain) == (event.pk, 1, [rule.pk])
    assert run.trigger["rule"] == "a-rule"
    assert written.run_ids == [run.pk]
    assert written.counts == {"matched": 1}


def test_a_condition_that_is_false_is_noted_on_the_event_and_starts_nothing():
    rule = rule_of(condition="payload.amount > 2000")

    take([message(body(1), 1)])

    event = Event.objects.get()
    assert (event.state, event.not_fired) == ("no_match", [rule.versions.get().pk])
    assert not Firing.objects.exists()
    assert not JobRun.objects.exists()


def test_a_condition_that_cannot_be_evaluated_is_a_firing_of_its_own_and_hinders_no_other():
    rule_of(ruleId="wrong", condition="payload.missing > 1")
    rule_of(ruleId="right")

    take([message(body(1), 1)])

    assert set(Firing.objects.values_list("outcome", flat=True)) == {"error", "fired"}
    assert Firing.objects.get(outcome="error").reason.startswith("condition_error")
    assert JobRun.objects.count() == 1


def test_events_and_runs_are_numbered_in_the_order_of_the_partition():
    rule_of()
    batch = orders(40)

    take([*batch[1::2], *batch[::2]])

    offsets = list(Event.objects.order_by("pk").values_list("off", flat=True))
    assert offsets == list(range(40))
    of_runs = list(JobRun.objects.order_by("pk").values_list("event_id", flat=True))
    assert of_runs == list(Event.objects.order_by("pk").values_list("pk", flat=True))


def test_a_message_with_tabs_newlines_backslashes_and_separators_is_stored_as_it_is():
    payload = {"text": 'tab\t newline\n return\r back\\slash \\n \\. quote" \x1f \x7f 𝄞'}

    take([message(body("a\\b\tc\nd\re\x1ff𝄞", payload), 1, key="k\te\\y\x1f", headers={"x": "a\tb\\c\n"})])

    event = Event.objects.get()
    assert event.message_id == "msg-a\\b\tc\nd\re\x1ff𝄞"
    assert event.payload == payload
    assert (event.ordering_key, event.headers) == ("k\te\\y\x1f", {"x": "a\tb\\c\n"})


def test_a_record_without_a_value_is_counted_and_nothing_else():
    written = take([message(None, 1), message(body(2), 2)])

    assert written.counts == {"ignored": 1, "no_match": 1}
    assert Event.objects.count() == 1


def test_the_run_has_the_priority_of_the_rule_else_of_the_job_else_of_the_event():
    job_of("only", name="urgent", priority="P0")
    rule_of(ruleId="r1", priority="LOW", taskName="urgent")
    rule_of(ruleId="r2", taskName="urgent")
    rule_of(ruleId="r3")

    take([message(body(1, priority="HIGH"), 1)])

    priorities = dict(JobRun.objects.values_list("trigger__rule", "priority"))
    assert priorities == {"r1": 3, "r2": 0, "r3": 1}


# --- what is known already


def test_a_batch_that_comes_again_makes_nothing_new():
    rule_of()
    pipeline, batch = pipeline_of(), orders(20)
    take(batch, pipeline)

    again = take(batch, pipeline)

    assert (again.counts, again.run_ids) == ({"duplicate": 20}, [])
    assert (Event.objects.count(), Firing.objects.count(), JobRun.objects.count()) == (20, 20, 20)
    first = Event.objects.order_by("pk").first()
    assert again.results[0][0].event_id == first.pk


def test_duplicates_within_a_batch_are_one_event():
    rule_of()

    written = take([message(body(1), 1), message(body(1), 2), message(body(2), 3), message(body(1), 4)])

    assert written.counts == {"matched": 2, "duplicate": 2}
    assert list(Event.objects.order_by("pk").values_list("off", flat=True)) == [1, 3]
    assert JobRun.objects.count() == 2


def test_a_batch_of_which_half_is_known_makes_the_other_half():
    rule_of()
    pipeline, batch = pipeline_of(), orders(20)
    take(batch[:10], pipeline)

    assert take(batch, pipeline).counts == {"duplicate": 10, "matched": 10}
    assert JobRun.objects.count() == 20


def test_the_first_wins_where_an_id_comes_again_with_another_payload_by_another_channel():
    hook = source_of("hook", kind="webhook")
    take([message(body(1), 1)])

    written = take([message(body(1, {"amount": 1}), channel="webhook:hook", message_id="x")], pipeline_of(hook))

    assert written.counts == {"dead_letter": 1}
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.message_id, letter.event_source_id) == ("conflict", "msg-1", hook.pk)
    assert bytes(letter.raw) == body(1, {"amount": 1})
    assert Event.objects.get().payload == {"orderId": "o-1", "amount": 1500}


def test_the_same_event_by_two_channels_is_a_duplicate_whatever_the_order_of_its_fields():
    hook = source_of("hook", kind="webhook")
    take([message(body(1, {"a": 1, "b": [2, 3]}), 1)])

    written = take([message(body(1, {"b": [2, 3], "a": 1}), channel="webhook:hook")], pipeline_of(hook))

    assert written.counts == {"duplicate": 1}


def test_a_conflict_within_a_batch_keeps_the_first_in_the_order_of_the_partition():
    take([message(body(1, {"n": 2}), 9), message(body(1, {"n": 1}), 3)])

    assert Event.objects.get().payload == {"n": 1}
    assert DeadLetter.objects.get().off == 9


def test_one_id_of_two_sources_or_two_tenants_is_two_events():
    other = source_of("other", owner=Tenant.objects.create(slug="other", name="Other"))

    take([message(body(1), 1), message(body(1, source="shipping"), 2)])
    take([message(body(1), 1)], pipeline_of(other))

    assert sorted(Event.objects.values_list("source", "tenant__slug")) == [
        ("order-service", "default"), ("order-service", "other"), ("shipping", "default"),
    ]  # fmt: skip


def test_the_key_of_a_message_is_the_one_that_the_envelope_defines():
    envelope = Envelope("msg-ä", "order.created", timezone.now(), "order-service", {"b": 1, "a": [1.5, None]})
    pipeline = pipeline_of()
    content = body("ä", {"a": [1.5, None], "b": 1})

    (item,) = prepared([message(content, 1)], pipeline).items

    assert item.key == key_of(pipeline.source.tenant_id, "order-service", "msg-ä")
    assert item.key == dedupe_key(pipeline.source.tenant_id, "order-service", "msg-ä").bytes
    assert item.sha == fingerprint(envelope)


def test_a_record_older_than_the_memory_of_keys_is_stored_and_starts_nothing():
    rule_of()

    written = take([message(body(1), 1, sent_at=timezone.now() - timedelta(days=16)), message(body(2), 2)])

    assert written.counts == {"expired": 1, "matched": 1}
    assert Event.objects.get(state="expired").message_id == "msg-1"
    assert JobRun.objects.count() == 1


# --- what cannot be used


POISON = {
    "malformed": b"{",
    "invalid UTF-8": b'{"eventType": "\xff"}',
    "NaN": b'{"eventType": "a", "payload": {"n": NaN}}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "empty": b"",
    "raw NUL": b'{"eventType": "a\x00"}',
    "an array": b"[1]",
    "null": b"null",
    "no type": body(1, eventType=None),
    "an endless type": body(1, eventType="t" * 10_000),
    "a payload that is a text": body(1, "text"),  # type: ignore[arg-type]
    "timestamp": body(1, timestamp="yesterday"),
    "NUL in the id": body(1, messageId="a\0b"),
    "reserved": body(1, source="platform"),
    "5 MiB": body(1, {"x": "y" * 5 * 2**20}),
    "too deep": body(1, orjson.loads("[" * 200 + "]" * 200)),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_poison_becomes_a_dead_letter_with_its_bytes_and_its_neighbours_run(poison: bytes):
    rule_of()

    written = take([message(body(10), 10), message(poison, 11), message(body(12), 12)])

    assert written.counts == {"matched": 2, "dead_letter": 1}
    assert bytes(DeadLetter.objects.get().raw) == poison
    assert JobRun.objects.count() == 2


def test_what_looks_strange_and_is_none_is_an_event():
    strange = [
        body("emoji 😀"),
        body("new\nline"),
        body(3, {str(n): n for n in range(60_000)}),
        b'{"messageId": "big", "eventType": "a.b", "payload": {"n": 123456789012345678901234567890, "n": 1e300}}',
        body(5, {"text": "\\u0000 is no NUL: \\\\u0000"}),
    ]
    batch = [message(content, number, headers={"x": "\\xff"}) for number, content in enumerate(strange)]

    assert take(batch).counts == {"no_match": 5}


def test_a_nul_character_in_the_middle_of_500_costs_one_dead_letter_and_no_order():
    rule_of()
    batch = orders(500)
    batch[250] = message(body(250, {"text": "a\0b"}), 250)
    pipeline = pipeline_of()

    began = time.perf_counter()
    written = take(batch, pipeline)
    seconds = time.perf_counter() - began

    assert written.counts == {"matched": 499, "dead_letter": 1}
    letter = DeadLetter.objects.get()
    assert (letter.reason, letter.off, bytes(letter.raw)) == ("db_rejected", 250, batch[250].body)
    offsets = list(Event.objects.order_by("pk").values_list("off", flat=True))
    assert offsets == [number for number in range(500) if number != 250]
    assert len(written.run_ids) == 499
    assert seconds < 5


def find_no_nul(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pipeline that leaves NUL to the database, which is how any other value that it refuses is found."""
    source = SourceView.of(source_of())
    policy = type(source.policy)(source.policy.slug, source.policy.id_policy, find_nul=False)
    return pipeline_of(type(source)(source.id, source.tenant_id, source.slug, source.kind, policy))


@postgresql
def test_a_row_that_the_database_alone_refuses_is_found_by_halving(monkeypatch: pytest.MonkeyPatch):
    rule_of()
    batch = orders(500)
    batch[123] = message(body(123, {"text": "a\0b"}), 123)

    written = take(batch, find_no_nul(monkeypatch))

    assert written.counts == {"matched": 499, "dead_letter": 1}
    assert DeadLetter.objects.get().reason == "db_rejected"
    assert [*Event.objects.order_by("pk").values_list("off", flat=True)] == [n for n in range(500) if n != 123]
    assert sorted(written.run_ids) == written.run_ids
    assert JobRun.objects.count() == 499


@postgresql
def test_more_than_twenty_refused_rows_are_our_fault_and_not_theirs(monkeypatch: pytest.MonkeyPatch):
    batch = orders(100)
    for number in range(0, 100, 4):
        batch[number] = message(body(number, {"text": "\0"}), number)

    with pytest.raises(Infrastructure):
        take(batch, find_no_nul(monkeypatch))

    assert DeadLetter.objects.count() <= write.MOST_REJECTED


def test_a_message_that_breaks_our_own_code_is_a_dead_letter_alone(monkeypatch: pytest.MonkeyPatch):
    def broken(received: Any, policy: Any, now: Any) -> Any:
        if b"msg-2" in received.body:
            raise RecursionError("too deep for us")
        return read(received, policy, now)

    from triggers.envelope import read

    monkeypatch.setattr("triggers.ingest.prepare.read", broken)

    assert take(orders(4)).counts == {"no_match": 3, "dead_letter": 1}
    assert DeadLetter.objects.get().off == 2


def test_a_lack_of_memory_ends_the_process_and_condemns_no_message(monkeypatch: pytest.MonkeyPatch):
    def starved(received: Any, policy: Any, now: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("triggers.ingest.prepare.read", starved)

    with pytest.raises(MemoryError):
        take(orders(1))


def test_the_same_poison_at_the_same_place_raises_the_tries_of_one_letter():
    pipeline = pipeline_of()
    for _ in range(3):
        take([message(b"{", 1)], pipeline)
    take([message(b"{", 2)], pipeline)

    assert sorted(DeadLetter.objects.values_list("off", "tries")) == [(1, 3), (2, 1)]


def test_the_same_poison_of_a_queue_is_one_letter_for_each_id():
    queue = {"channel": "rabbitmq:orders", "part": "orders"}

    take([message(b"{", message_id="a", **queue), message(b"{", message_id="a", **queue), message(b"{", **queue)])

    assert sorted(DeadLetter.objects.values_list("message_id", "tries")) == [("", 1), ("a", 2)]


def test_one_transition_a_batch_and_source_tells_of_new_dead_letters():
    pipeline = pipeline_of()
    batch = [message(b"{", 1), message(b"[1]", 2), message(b"{{", 3)]
    take(batch, pipeline)
    take(batch, pipeline)

    (told,) = Transition.objects.filter(subject="event_source")
    assert (told.subject_id, told.to_state, told.cause) == (pipeline.source.id, "dead_letters", "ingest")
    assert told.reason == "2 malformed, 1 not_object"


def test_a_letter_is_stored_whatever_bytes_its_place_and_headers_have():
    odd = message(b"\x00\xff", channel="rabbitmq:q\0q", part="q\0q", message_id="i\0d", headers={"h\0": "\ud800"})

    assert take([odd]).counts == {"dead_letter": 1}
    letter = DeadLetter.objects.get()
    assert (letter.channel, bytes(letter.raw)) == ("rabbitmq:q\\x00q", b"\x00\xff")


# --- rules and jobs that vanish between the match and the write


def test_a_rule_that_was_deleted_in_between_makes_a_firing_with_an_error_and_no_run():
    rule = rule_of()
    pipeline = pipeline_of()
    ready = prepared([message(body(1), 1)], pipeline)
    delete_rule(tenant=rule.tenant, slug=rule.slug, by="ada")

    written = pipeline.write(ready)

    firing = Firing.objects.get()
    assert (firing.outcome, firing.reason.partition(":")[0]) == ("error", "rule_gone")
    assert (written.run_ids, written.counts) == ([], {"matched": 1})
    assert not DeadLetter.objects.exists()


def test_a_job_that_was_archived_in_between_suppresses_the_firing():
    job = job_of("only", name="sync")
    rule_of()
    pipeline = pipeline_of()
    ready = prepared([message(body(1), 1)], pipeline)
    archive_job(job, by="ada")

    pipeline.write(ready)

    firing = Firing.objects.get()
    assert (firing.outcome, firing.reason.partition(":")[0], firing.job_run_id) == ("suppressed", "job_archived", None)


def test_parameters_that_do_not_fit_the_job_are_an_error_of_the_firing():
    rule_of(parameters={"nobody": "${payload.orderId}"})

    take([message(body(1), 1)])

    firing = Firing.objects.get()
    assert firing.outcome == "error"
    assert firing.reason.startswith("invalid_parameters: ")


def test_a_write_that_fails_between_two_rules_leaves_neither_and_the_next_makes_both(monkeypatch: pytest.MonkeyPatch):
    rule_of(ruleId="r1")
    rule_of(ruleId="r2")
    pipeline = pipeline_of()
    ready = prepared(orders(5), pipeline)
    with monkeypatch.context() as patched:
        patched.setattr("triggers.ingest.firing.FiringRow", _fails_at(3))
        with pytest.raises(Infrastructure):
            pipeline.write(ready)
    assert not JobRun.objects.exists()

    pipeline.write(ready)

    assert JobRun.objects.count() == Firing.objects.count() == 10


def _fails_at(number: int) -> Any:
    from triggers.ingest.statements.rows import FiringRow

    made: list[int] = []

    def make(*values: Any) -> FiringRow:
        made.append(1)
        if len(made) == number:
            raise RuntimeError("killed here")
        return FiringRow(*values)

    return make


# --- a paused job


def test_the_runs_of_a_paused_job_wait_with_their_reason_and_start_in_order_when_it_is_resumed(broker: Any):
    job = job_of("only", name="sync")
    rule_of(concurrency={"key": "payload.shop", "max": 1})
    pause_job(job, by="ada")
    batch = [message(body(n, {"shop": n % 2, "n": n}), n) for n in range(1000)]

    for first in range(0, 1000, 500):
        launch_runs(take(batch[first : first + 500]).run_ids)

    assert set(JobRun.objects.values_list("state", flat=True)) == {"pending"}
    assert all("pause" in reason for reason in JobRun.objects.values_list("reason", flat=True).distinct())
    resume_job(job, by="ada")
    for shop in (0, 1):
        running = JobRun.objects.get(state="running", event__payload__shop=shop)
        assert running.event["payload"]["n"] == shop


def test_what_a_rule_drops_when_its_job_is_paused_ends_with_that_reason(broker: Any):
    job = job_of("only", name="sync")
    rule_of(whenJobPaused="drop")
    pause_job(job, by="ada")

    launch_runs(take(orders(3)).run_ids)

    assert {(run.state, run.reason.partition(":")[0].partition(" ")[0]) for run in JobRun.objects.all()} == {
        ("cancelled", "job_paused")
    }


# --- loops


def test_an_event_deeper_than_sixteen_runs_and_events_is_a_dead_letter():
    rule_of()
    deep = {"causation": {"depth": 17, "rootEventId": 1, "ruleChain": []}}
    fits = {"causation": {"depth": 16, "rootEventId": 5, "ruleChain": [7]}}

    take([message(body(1, metadata=deep), 1), message(body(2, metadata=fits), 2)])

    assert DeadLetter.objects.get().reason == "loop"
    run = JobRun.objects.get()
    assert (run.root_event_id, run.depth, run.rule_chain[0]) == (5, 17, 7)


def test_a_rule_that_triggers_itself_stops_after_four_runs():
    rule_of()
    pipeline = pipeline_of()
    causation: dict[str, Any] | None = None
    for number in range(10):
        take([message(body(number, metadata={"causation": causation} if causation else {}), number)], pipeline)
        run = JobRun.objects.order_by("-pk").first()
        causation = {"depth": run.depth, "rootEventId": run.root_event_id, "ruleChain": run.rule_chain}

    assert JobRun.objects.count() == 4
    assert set(DeadLetter.objects.values_list("reason", flat=True)) == {"loop"}


def test_three_rules_in_a_circle_stop():
    rules = [rule_of(ruleId=f"r{n}", eventType=f"step{n}") for n in range(3)]
    pipeline = pipeline_of()
    causation: dict[str, Any] = {}
    for number in range(30):
        metadata = {"causation": causation} if causation else {}
        take([message(body(number, eventType=f"step{number % 3}", metadata=metadata), number)], pipeline)
        run = JobRun.objects.order_by("-pk").first()
        causation = {"depth": run.depth, "rootEventId": run.root_event_id, "ruleChain": run.rule_chain}

    assert JobRun.objects.count() == 4 * len(rules) - 2
    assert "loop" in set(DeadLetter.objects.values_list("reason", flat=True))


def test_a_field_of_the_same_name_with_other_types_is_no_causation():
    rule_of()

    take(
        [
            message(body(1, metadata={"causation": "a-text"}), 1),
            message(body(2, metadata={"causation": {"depth": "9"}}), 2),
        ]
    )

    assert set(JobRun.objects.values_list("depth", flat=True)) == {1}


# --- tenants of a shared source


def test_an_event_of_a_shared_source_belongs_to_the_tenant_that_the_mapping_names():
    other = Tenant.objects.create(slug="other", name="Other")
    source = source_of(tenant="payload.shop", tenants=["default", "other"])

    take([message(body(1, {"shop": "other"}), 1), message(body(2, {"shop": "default"}), 2)], pipeline_of(source))

    assert dict(Event.objects.values_list("message_id", "tenant__slug")) == {"msg-1": other.slug, "msg-2": "default"}


@pytest.mark.parametrize("payload", [{"shop": "nobody"}, {"shop": 7}, {}])
def test_a_tenant_that_the_source_does_not_list_is_a_dead_letter(payload: dict[str, Any]):
    Tenant.objects.create(slug="nobody", name="Exists, and is not listed")
    source = source_of(tenant="payload.shop", tenants=["default"])

    take([message(body(1, payload), 1)], pipeline_of(source))

    assert DeadLetter.objects.get().reason == "unknown_tenant"


# --- whose fault


@postgresql
@pytest.mark.django_db(transaction=True)
def test_a_missing_day_holds_the_batch_and_condemns_nothing():
    from triggers.ingest.partitions import DEFAULT, ensure_days, partitions

    rule_of()
    pipeline, batch = pipeline_of(), orders(5)
    with connection.cursor() as cursor:
        for name in partitions():
            cursor.execute(f'drop table "{name}"')
    try:
        with pytest.raises(Infrastructure, match="partition"):
            take(batch, pipeline)

        assert (EventKey.objects.count(), DeadLetter.objects.count(), JobRun.objects.count()) == (0, 0, 0)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"create table {DEFAULT} partition of triggers_event default")
    assert take(batch, pipeline).counts == {"matched": 5}
    ensure_days(timezone.now())
    assert Event.objects.count() == 5
    with connection.cursor() as cursor:
        cursor.execute(f"select count(*) from only {DEFAULT}")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(
    "error",
    [psycopg.errors.UndefinedColumn(), psycopg.errors.AdminShutdown(), psycopg.errors.QueryCanceled(), KeyError()],
)
def test_whatever_is_no_data_error_holds_the_batch(monkeypatch: pytest.MonkeyPatch, error: Exception):
    rule_of()
    pipeline = pipeline_of()

    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("triggers.ingest.write.fire", broken)
        with pytest.raises(Infrastructure):
            take(orders(3), pipeline)

    assert (EventKey.objects.count(), Event.objects.count(), DeadLetter.objects.count()) == (0, 0, 0)
    assert take(orders(3), pipeline).counts == {"matched": 3}


def test_the_hook_is_part_of_the_transaction():
    pipeline = pipeline_of()

    def fails() -> None:
        raise RuntimeError("the cursor cannot move")

    with pytest.raises(Infrastructure):
        pipeline.write(prepared(orders(2), pipeline), hook=fails)

    assert not Event.objects.exists()


def test_a_prepared_batch_can_be_cut_to_the_parts_that_are_still_ours():
    pipeline = pipeline_of()
    batch = prepared([message(body(1), 1, partition=0), message(body(2), 1, partition=1)], pipeline)

    written = pipeline.write(batch.cut(lambda part: part == "business-events/1"))

    assert written.counts == {"no_match": 1}
    assert Event.objects.get().part == "business-events/1"


# --- trigger calls

CALLS = "kafka:schedule-tasks"


def call(job: str = "sync", parameters: Any = None, off: int = 1, **fields: Any) -> Any:
    content = {"jobName": job, "parameters": parameters or {}, "messageId": "call-1", **fields}
    return message(orjson.dumps(content), off, channel=CALLS)


def test_a_trigger_call_starts_the_job_that_it_names_once():
    job = job_of("only", name="sync")

    written = take([call(off=1), call(off=2)])

    run = JobRun.objects.get()
    assert (run.job_id, run.state, written.run_ids) == (job.pk, "pending", [run.pk])
    assert written.counts == {"trigger_call": 1, "duplicate": 1}
    assert (run.trigger["type"], run.trigger["message_id"]) == ("message", "call-1")
    assert Event.objects.get().event_type == "job.trigger"


def test_the_same_key_with_another_job_is_refused_as_the_api_would():
    job_of("only", name="sync")
    job_of("only", name="other")
    take([call()])

    take([call("other", off=2)])

    assert DeadLetter.objects.get().reason == "refused:idempotency_mismatch"
    assert JobRun.objects.count() == 1


def test_a_refused_call_uses_up_no_key():
    take([call()])
    assert DeadLetter.objects.get().reason == "refused:unknown_job"
    job_of("only", name="sync")

    assert take([call(off=2)]).counts == {"trigger_call": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"jobName": "gone"}, "refused:job_archived"),
        ({"jobName": "sync", "parameters": {"nobody": 1}}, "refused:invalid_parameters"),
        ({"jobName": 7}, "refused:invalid_request"),
        ({"jobName": "sync", "parameters": [1]}, "refused:invalid_request"),
        ({"jobName": "sync", "messageId": "a\nb"}, "refused:invalid_request"),
    ],
)
def test_a_call_is_refused_with_the_code_of_the_api(content: dict[str, Any], reason: str):
    job_of("only", name="sync")
    archive_job(job_of("only", name="gone"), by="ada")

    take([message(orjson.dumps({"messageId": "c", **content}), 1, channel=CALLS)])

    assert DeadLetter.objects.get().reason == reason
    assert not JobRun.objects.exists()


def test_an_ordinary_event_on_the_channel_of_calls_is_an_event_and_a_job_name_elsewhere_is_no_call():
    job_of("only", name="sync")

    take([message(body(1), 1, channel=CALLS), message(orjson.dumps({"jobName": "sync"}), 2)])

    assert Event.objects.get().event_type == "order.created"
    assert DeadLetter.objects.get().reason == "bad_field"
    assert not JobRun.objects.exists()
