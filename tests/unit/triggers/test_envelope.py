from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.envelope import (
    Envelope,
    Policy,
    Problem,
    Received,
    body_hash,
    canonical_json,
    dedupe_key,
    fingerprint,
    header_text,
    read,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDERS = Policy("orders", "require")

CONTRACT = {
    "messageId": "msg-20250906-123456",
    "eventType": "order.created",
    "timestamp": "2025-09-06T10:30:00Z",
    "source": "order-service",
    "destination": "schedule-platform",
    "priority": "HIGH",
    "payload": {"orderId": "order-12345", "customerId": "customer-67890", "amount": 999.99, "currency": "CNY"},
    "metadata": {"traceId": "trace-abcdef-123456", "version": "1.0", "schema": "order.created.v1"},
}


def message(body: Any = None, /, **changes: Any) -> Received:
    """One message of a queue: bytes as they are, or the contract's event with changes; `None` removes a field."""
    if not isinstance(body, bytes):
        form = {key: value for key, value in ({**CONTRACT, **changes}).items() if value is not None}
        body = json.dumps(form if body is None else body).encode()
    return Received("rabbitmq:orders", body)


def event_of(received: Received, policy: Policy = ORDERS) -> Envelope:
    found = read(received, policy, NOON)
    assert isinstance(found, list), found
    (envelope,) = found
    return envelope


def problem_of(received: Received, policy: Policy = ORDERS) -> Problem:
    found = read(received, policy, NOON)
    assert isinstance(found, Problem), found
    return found


def test_the_event_of_the_contract_is_read_as_it_is_written() -> None:
    assert event_of(message()) == Envelope(
        message_id="msg-20250906-123456",
        event_type="order.created",
        timestamp=datetime(2025, 9, 6, 10, 30, tzinfo=UTC),
        source="order-service",
        payload=CONTRACT["payload"],
        destination="schedule-platform",
        priority="HIGH",
        metadata=CONTRACT["metadata"],
    )


def test_type_payload_and_an_id_are_enough() -> None:
    envelope = event_of(message({"eventType": "order.created", "payload": {}, "messageId": "1"}))

    assert (envelope.source, envelope.timestamp, envelope.priority, envelope.metadata) == ("orders", NOON, "", {})


def test_the_brokers_moment_stands_in_for_a_missing_one() -> None:
    sent = NOON - timedelta(seconds=3)
    received = Received("kafka:orders", message(timestamp=None).body, sent_at=sent)

    assert event_of(received).timestamp == sent


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2025-09-06T18:30:00+08:00", datetime(2025, 9, 6, 10, 30, tzinfo=UTC)),
        ("2025-09-06T10:30:00.123456789Z", datetime(2025, 9, 6, 10, 30, 0, 123456, tzinfo=UTC)),
        ("2025-09-06t10:30:00z", datetime(2025, 9, 6, 10, 30, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_every_form_of_rfc_3339_is_a_moment(written: str, moment: datetime) -> None:
    assert event_of(message(timestamp=written)).timestamp == moment


@pytest.mark.parametrize(
    "written",
    ["yesterday", "2025-09-06T10:30:00", "2025-09-06", 1757154600, "0001-01-01T00:00:00+14:00", "2025-W36-6", ""],
)
def test_a_moment_that_nobody_can_place_is_a_problem(written: object) -> None:
    assert problem_of(message(timestamp=written)).reason == "bad_field"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b'{"eventType": "\\ud800"}', "malformed"),
        (b'{"eventType": "\xff"}', "malformed"),
        (b'{"payload": NaN}', "malformed"),
        (b'{"payload": 1e400}', "malformed"),
        (b"\xef\xbb\xbf{}", "malformed"),
        (b'{"a": "\0"}', "malformed"),
        (b"[" * 1100 + b"]" * 1100, "malformed"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b'"text"', "not_object"),
        (b"{}", "bad_field"),
    ],
)
def test_poison_that_the_parser_finds_is_a_problem(body: bytes, reason: str) -> None:
    assert problem_of(message(body)).reason == reason


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"eventType": "x" * 10_000}, "eventType"),
        ({"eventType": ""}, "eventType"),
        ({"eventType": 7}, "eventType"),
        ({"source": "x" * 201}, "source"),
        ({"destination": ["a"]}, "destination"),
        ({"messageId": "x" * 501}, "messageId"),
        ({"messageId": "a\0b"}, "messageId"),
        ({"source": "a\0b"}, "source"),
        ({"messageId": {"a": 1}}, "messageId"),
        ({"priority": "URGENT"}, "priority"),
        ({"priority": ["HIGH"]}, "priority"),
        ({"payload": "text"}, "payload"),
        ({"payload": [1]}, "payload"),
        ({"metadata": "1.0"}, "metadata"),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(changes: dict[str, Any], field: str) -> None:
    found = problem_of(message(**changes), Policy("orders", "require", find_nul=False))

    assert found.reason == "bad_field"
    assert found.error.startswith(f"{field}:")


def test_a_missing_payload_is_a_problem() -> None:
    assert problem_of(message(payload=None)).error == "payload: an object, not null"


@pytest.mark.parametrize("given", ["line\nbreak", "🚀", "ü" * 500, "a/b:c"])
def test_an_id_may_be_any_other_text(given: str) -> None:
    assert event_of(message(messageId=given)).message_id == given


def test_a_number_is_taken_for_the_text_of_an_id() -> None:
    assert event_of(message(messageId=42)).message_id == "42"


@pytest.mark.parametrize("where", ['{"note": "a\\u0000b"}', '{"a\\u0000b": 1}', '{"deep": [{"x": ["\\u0000"]}]}'])
def test_a_nul_is_found_before_the_database_finds_it(where: str) -> None:
    body = f'{{"eventType": "a", "messageId": "1", "payload": {where}}}'.encode()

    assert problem_of(message(body)).reason == "db_rejected"
    assert event_of(message(body), Policy("orders", "require", find_nul=False)).event_type == "a"


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    body = b'{"eventType": "a", "messageId": "1", "payload": {"path": "C:\\\\u0000"}}'

    assert event_of(message(body)).payload == {"path": "C:\\u0000"}


def test_of_duplicate_keys_the_last_wins() -> None:
    body = b'{"eventType": "a", "eventType": "b", "messageId": "1", "payload": {"x": 1, "x": 2}}'

    assert (event_of(message(body)).event_type, event_of(message(body)).payload) == ("b", {"x": 2})


def test_an_integer_of_thirty_digits_becomes_a_float() -> None:
    body = b'{"eventType": "a", "messageId": "1", "payload": {"n": 123456789012345678901234567890}}'

    assert event_of(message(body)).payload == {"n": 1.2345678901234568e29}


def nested(levels: int) -> bytes:
    inner = b"[" * levels + b"]" * levels
    return b'{"eventType": "a", "messageId": "1", "payload": {"x": ' + inner + b"}}"


def test_nesting_is_bounded() -> None:
    assert event_of(message(nested(62)))
    assert problem_of(message(nested(63))).error == "nested more than 64 levels deep"
    assert problem_of(message(nested(900))).reason == "bad_field"


def test_a_hundred_thousand_keys_are_no_problem() -> None:
    assert (
        len(event_of(message(payload={str(n): {} for n in range(100_000)}), Policy("o", "require", 1 << 24)).payload)
        == 100_000
    )


def test_size_is_judged_before_anything_is_parsed() -> None:
    received = message(b"{" * 101)

    assert problem_of(received, Policy("orders", "require", max_bytes=100)) == Problem(
        "too_large", "101 bytes, at most 100"
    )


def test_a_record_without_a_value_is_no_event() -> None:
    assert read(Received("kafka:orders", None), ORDERS, NOON) == []


@pytest.mark.parametrize("source", ["platform", "schedule", "rule"])
def test_nobody_outside_speaks_as_one_of_us(source: str) -> None:
    assert problem_of(message(source=source)).reason == "reserved_source"


def test_a_source_may_be_limited_to_some_and_its_own_name() -> None:
    policy = Policy("orders", "require", allowed_sources=frozenset({"shop"}))

    assert problem_of(message(source="order-service"), policy).reason == "source_not_allowed"
    assert event_of(message(source="shop"), policy).source == "shop"
    assert event_of(message(source=None), policy).source == "orders"


def test_fields_that_we_do_not_know_are_kept() -> None:
    envelope = event_of(message(region="eu", metadata={"region": "own", "version": "1.0"}, tags=["a"]))

    assert envelope.metadata == {"region": "own", "tags": ["a"], "version": "1.0"}


def test_columns_take_what_fits_and_metadata_keeps_the_whole() -> None:
    envelope = event_of(message(metadata={"traceId": "t" * 300, "version": 1.0, "schema": {"a": 1}}))

    assert (envelope.trace_id, envelope.version, envelope.schema) == ("t" * 200, "1.0", "")
    assert envelope.metadata["traceId"] == "t" * 300


class TestIdPolicies:
    @pytest.mark.parametrize("policy", ["transport", "require", "bodyhash"])
    def test_the_messages_own_id_comes_first(self, policy: str) -> None:
        received = Received("kafka:orders", message().body, off=4, message_id="orders/0/4")

        assert event_of(received, Policy("orders", policy)).message_id == "msg-20250906-123456"

    def test_a_place_is_the_id_where_the_source_says_so(self) -> None:
        received = Received("kafka:orders", message(messageId=None).body, off=4, message_id="orders/0/4")

        assert event_of(received, Policy("orders", "transport")).message_id == "orders/0/4"
        assert problem_of(received, Policy("orders", "require")).reason == "no_id"

    def test_the_producers_id_beside_the_body_counts_as_its_own(self) -> None:
        received = Received("rabbitmq:orders", message(messageId="").body, message_id="m-1")

        assert event_of(received, Policy("orders", "require")).message_id == "m-1"

    def test_without_any_id_there_is_no_event(self) -> None:
        received = message(messageId=None)

        assert {problem_of(received, Policy("o", policy)).reason for policy in ("transport", "require")} == {"no_id"}

    def test_identical_bodies_are_one_event_where_the_source_says_so(self) -> None:
        received = message(messageId=None)

        assert event_of(received, Policy("o", "bodyhash")).message_id == body_hash(received.body)


def test_the_fingerprint_sees_type_and_payload_alone() -> None:
    first = fingerprint(event_of(message()))

    assert len(first) == 32
    assert first == fingerprint(event_of(message(source="other", messageId="2", priority="LOW", metadata={})))
    assert first == fingerprint(event_of(message(payload=dict(reversed(CONTRACT["payload"].items())))))  # type: ignore[attr-defined]
    assert first != fingerprint(event_of(message(eventType="order.changed")))
    assert first != fingerprint(event_of(message(payload={})))


def test_the_key_tells_tenant_source_and_id_apart() -> None:
    keys = {dedupe_key(*parts) for parts in [(1, "a", "bc"), (1, "ab", "c"), (11, "a", "bc"), (1, "a", "b")]}

    assert len(keys) == 4
    assert dedupe_key(1, "a", "bc") == dedupe_key(1, "a", "bc")


def test_headers_are_texts_that_can_be_stored() -> None:
    assert header_text(b"plain") == "plain"
    assert header_text(b"\xff\0x") == "\\xff\\x00x"
    assert header_text(None) == ""
    assert header_text("a\0b") == "a\\x00b"


def test_canonical_json_takes_what_a_database_gives_back() -> None:
    assert canonical_json({"b": 10**30, "a": 1}) == b'{"a":1,"b":1' + b"0" * 30 + b"}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
fields = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (*CONTRACT, "specversion", "id", "type", "time", "data", "data_base64", "dataschema", "extra"), json_values
    ),
)
header_names = st.sampled_from(
    ["ce_specversion", "ce-specversion", "cloudevents_specversion", "cloudevents:specversion", "ce_id", "ce-id",
     "ce-source", "ce_source", "ce-type", "ce_type", "ce-time", "ce-datacontenttype", "content-type"]
)  # fmt: skip
content_types = st.sampled_from(
    ["", "application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain",
     "application/cloudevents+avro", "application/octet-stream", "x"]
)  # fmt: skip


@given(
    body=st.none() | st.binary() | fields.map(lambda form: json.dumps(form).encode()) | json_values.map(lambda v: json.dumps(v).encode()),
    headers=st.dictionaries(header_names, st.sampled_from(["1.0", "a", "%zz", "%ff", "\0", '"q"', "2026-01-01T00:00:00Z"]), max_size=6),
    content_type=content_types,
    policy=st.sampled_from(["transport", "require", "bodyhash"]),
    message_id=st.text(max_size=3),
)  # fmt: skip
def test_reading_never_raises_and_never_lets_anything_unstorable_through(
    body: bytes | None, headers: dict[str, str], content_type: str, policy: str, message_id: str
) -> None:
    received = Received("webhook:x", body, content_type, headers, message_id=message_id)

    found = read(received, Policy("x", policy), NOON)

    if isinstance(found, Problem):
        assert found.reason
        return
    for envelope in found:
        stored = orjson.dumps([envelope.payload, envelope.metadata, envelope.message_id, envelope.source])
        assert b"\\u0000" not in stored.replace(b"\\\\", b"")
        assert 0 < len(envelope.message_id) <= 500
        assert 0 < len(envelope.event_type) <= 200
        assert envelope.timestamp.tzinfo is not None
        assert len(fingerprint(envelope)) == 32


@given(
    payload=st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers(-(2**62), 2**62) | st.booleans() | st.none()),
    event_type=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
)  # fmt: skip
def test_the_same_event_by_two_channels_has_one_fingerprint(payload: dict[str, Any], event_type: str) -> None:
    ours = json.dumps({"messageId": "1", "eventType": event_type, "payload": payload}, ensure_ascii=True, indent=1)
    theirs = json.dumps(
        {"payload": dict(reversed(payload.items())), "eventType": event_type, "messageId": "1"}, ensure_ascii=False
    )
    cloud = {"specversion": "1.0", "id": "1", "source": "s", "type": event_type, "data": payload}

    prints = {
        fingerprint(event_of(Received("kafka:a", ours.encode()))),
        fingerprint(event_of(Received("webhook:b", theirs.encode(), "application/json"))),
        fingerprint(event_of(Received("rabbitmq:c", json.dumps(cloud).encode(), "application/cloudevents+json"))),
    }

    assert len(prints) == 1


def test_zones_do_not_change_the_moment() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=8)))

    assert event_of(message(timestamp=local.isoformat())).timestamp == NOON
