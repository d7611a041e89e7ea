from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from triggers.envelope import Envelope, Policy, Problem, Received, read

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = Policy("clouds", "require")
STRUCTURED = "application/cloudevents+json; charset=utf-8"

ATTRIBUTES = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "/mycontext",
    "type": "com.example.someevent",
    "time": "2018-04-05T17:31:00Z",
    "subject": "123",
    "dataschema": "https://example.com/schema",
    "datacontenttype": "application/json",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "partitionkey": "k1",
}
EXPECTED = Envelope(
    message_id="A234-1234-1234",
    event_type="com.example.someevent",
    timestamp=datetime(2018, 4, 5, 17, 31, tzinfo=UTC),
    source="/mycontext",
    payload={"appinfoA": "abc"},
    metadata={
        "subject": "123",
        "schema": "https://example.com/schema",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "partitionkey": "k1",
    },
)


def structured(**changes: Any) -> bytes:
    form = {**ATTRIBUTES, "data": {"appinfoA": "abc"}, **changes}
    return json.dumps({key: value for key, value in form.items() if value is not ...}).encode()


def events(body: bytes | None, content_type: str = "", **headers: str) -> list[Envelope] | Problem:
    return read(Received("c", body, content_type, headers), POLICY, NOON)


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "cloudevents_", "cloudevents:"])
def test_binary_mode_of_every_transport_is_the_same_event(prefix: str) -> None:
    headers = {prefix + name: value for name, value in ATTRIBUTES.items() if name != "datacontenttype"}

    assert events(b'{"appinfoA": "abc"}', "application/json", **headers) == [EXPECTED]


def test_structured_mode_is_the_same_event() -> None:
    assert events(structured(), STRUCTURED) == [EXPECTED]


def test_an_event_under_the_media_type_of_any_json_is_the_same_event() -> None:
    assert events(structured(), "application/json") == [EXPECTED]


def test_a_batch_gives_all_of_its_events_in_order() -> None:
    batch = b"[" + structured(id="1") + b"," + structured(id="2") + b"]"

    found = events(batch, "application/cloudevents-batch+json")

    assert isinstance(found, list)
    assert [event.message_id for event in found] == ["1", "2"]
    assert events(b"[]", "application/cloudevents-batch+json") == []


def test_a_batch_with_one_bad_event_says_which() -> None:
    batch = b"[" + structured() + b"," + structured(source=...) + b"]"

    assert events(batch, "application/cloudevents-batch+json") == Problem(
        "bad_field", "event 1 of the batch: source: missing"
    )


@pytest.mark.parametrize(
    ("data", "payload"),
    [(7, {"data": 7}), ([1], {"data": [1]}), ("text", {"data": "text"}), (None, {"data": None}), (..., {})],
)
def test_data_that_is_no_object_becomes_one(data: object, payload: dict[str, Any]) -> None:
    found = events(structured(data=data), STRUCTURED)

    assert isinstance(found, list)
    assert found[0].payload == payload


def test_data_in_base64_stays_so() -> None:
    found = events(structured(data=..., data_base64="AAEC"), STRUCTURED)

    assert isinstance(found, list)
    assert found[0].payload == {"dataBase64": "AAEC"}


@pytest.mark.parametrize(
    ("body", "content_type", "payload"),
    [
        (b"plain", "text/plain; charset=utf-8", {"data": "plain"}),
        (b"<a/>", "application/xml", {"data": "<a/>"}),
        (b"\x89PNG\0", "image/png", {"dataBase64": base64.b64encode(b"\x89PNG\0").decode()}),
        (b"nul\0", "text/plain", {"dataBase64": base64.b64encode(b"nul\0").decode()}),
        (b"\xff", "text/plain", {"dataBase64": "/w=="}),
        (b"7", "application/vnd.x+json", {"data": 7}),
        (b'{"a": 1}', "", {"a": 1}),
        (b"\xff", "", {"dataBase64": "/w=="}),
        (b"", "application/json", {}),
        (None, "", {}),
    ],
)
def test_the_media_type_says_what_binary_data_is(
    body: bytes | None, content_type: str, payload: dict[str, Any]
) -> None:
    headers = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}

    found = events(body, content_type, **headers)

    assert isinstance(found, list), found
    assert found[0].payload == payload


def test_http_values_are_decoded_once() -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "ce-source": '"a%2541"',
        "ce-type": "t",
    }

    found = events(b"{}", "", **headers)

    assert isinstance(found, list), found
    assert (found[0].message_id, found[0].source) == ("Euro € 😀", "a%41")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"specversion": "0.3"}, "bad_field"),
        ({"source": ...}, "bad_field"),
        ({"source": "platform"}, "reserved_source"),
        ({"type": ...}, "bad_field"),
        ({"id": ...}, "no_id"),
        ({"id": ""}, "no_id"),
        ({"time": "noon"}, "bad_field"),
        ({"data": ..., "data_base64": "***"}, "bad_field"),
        ({"data": ..., "data_base64": 7}, "bad_field"),
        ({"data": {"x": "\0"}}, "db_rejected"),
    ],
)
def test_what_is_no_event_of_the_specification_is_a_problem(changes: dict[str, Any], reason: str) -> None:
    found = events(structured(**changes), STRUCTURED)

    assert isinstance(found, Problem)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"{", STRUCTURED, "malformed"),
        (b"[]", STRUCTURED, "not_object"),
        (b"{}", "application/cloudevents-batch+json", "not_object"),
        (b"[7]", "application/cloudevents-batch+json", "not_object"),
        (b"x", "application/cloudevents+avro", "malformed"),
    ],
)
def test_a_body_that_is_no_event_is_a_problem(body: bytes, content_type: str, reason: str) -> None:
    found = events(body, content_type)

    assert isinstance(found, Problem)
    assert found.reason == reason


def test_a_header_that_cannot_be_stored_is_a_problem() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-note": "a%00b"}

    assert events(b"{}", "", **headers) == Problem("bad_field", "note: text without NUL")
    assert isinstance(events(b"{}", "", **headers | {"ce-note": "%ff"}), Problem)


def test_priority_and_destination_are_fields_of_the_contract() -> None:
    found = events(structured(priority="HIGH", destination="warehouse"), STRUCTURED)

    assert isinstance(found, list)
    assert (found[0].priority, found[0].destination) == ("HIGH", "warehouse")


def test_a_priority_of_another_vocabulary_is_an_extension() -> None:
    found = events(structured(priority="7"), STRUCTURED)

    assert isinstance(found, list)
    assert (found[0].priority, found[0].metadata["priority"]) == ("", "7")
