"""CloudEvents 1.0 (binary, structured, batch) → the fields of the contract's envelope. Pure.

Only the translation: which fields an event must have, and how long they may be, is decided where the contract's own
form is read, so that both forms obey the same limits. https://github.com/cloudevents/spec
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

#: What a transport writes before the name of an attribute; names in `Received.headers` are lower-case.
#: Kafka, HTTP, and the two of AMQP: `:` is old, and some brokers refuse it.
PREFIXES: Final = ("ce_", "ce-", "cloudevents_", "cloudevents:")
_MARKS: Final = tuple((f"{prefix}specversion", prefix) for prefix in PREFIXES)

#: Attribute → field of the envelope. `datacontenttype` is spent on reading the data.
_FIELDS: Final = {"id": "messageId", "source": "source", "type": "eventType", "time": "timestamp"}
_METADATA: Final = {"subject": "subject", "dataschema": "schema"}
_SPENT: Final = frozenset({"specversion", "datacontenttype", "data", "data_base64"})
#: Extensions that are fields of the contract, if they are what the contract allows there.
_PRIORITIES: Final = frozenset({"HIGH", "MEDIUM", "LOW"})
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON: Final = re.compile(r"(?:application|text)/(?:[\w.+-]+\+)?json")
_TEXT: Final = re.compile(r"text/[\w.+-]+|application/(?:[\w.+-]+\+)?xml")


class Unreadable(Exception):
    """A message is no event; `reason` is a word of the dead letters, the text is for people. Control flow."""

    def __init__(self, reason: str, error: str) -> None:
        self.reason = reason
        super().__init__(error)


def prefix_in(headers: Mapping[str, str]) -> str | None:
    """Return the prefix under which these headers carry an event in binary mode, None if they carry none."""
    for mark, prefix in _MARKS:
        if mark in headers:
            return prefix
    return None


def is_structured(content_type: str) -> bool:
    return media_type(content_type).startswith("application/cloudevents")


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def binary(headers: Mapping[str, str], prefix: str, body: bytes | None, content_type: str) -> dict[str, Any]:
    """Return the form of an event whose attributes are headers and whose data is the body; raises Unreadable."""
    decode = _http_value if prefix == "ce-" else str
    attributes = {
        name[len(prefix) :]: decode(value) for name, value in headers.items() if name.startswith(prefix) and value
    }
    declared = attributes.get("datacontenttype") or content_type
    for name, value in attributes.items():
        if "\0" in value:
            raise Unreadable("bad_field", f"{name[:50]}: text without NUL")
    # Without data an event has a body of no bytes over HTTP, and none on Kafka.
    return _form(attributes, {} if not body else _payload(_data_of(body, media_type(declared))))


def structured(body: bytes, content_type: str) -> list[dict[str, Any]]:
    """Return the forms of an event, or of a batch, whose attributes and data are one JSON text; raises Unreadable."""
    kind = media_type(content_type)
    if kind not in ("application/cloudevents+json", "application/cloudevents-batch+json", "application/cloudevents"):
        raise Unreadable("malformed", f"CloudEvents are read as JSON, not as {kind[:100]}")
    found = parsed(body)
    if kind != "application/cloudevents-batch+json":
        return [of_object(found)]
    if not isinstance(found, list):
        raise Unreadable("not_object", "a batch is an array of events")
    forms = []
    for index, event in enumerate(found):
        try:
            forms.append(of_object(event))
        except Unreadable as error:
            raise Unreadable(error.reason, f"event {index} of the batch: {error}") from None
    return forms


def of_object(event: Any) -> dict[str, Any]:
    """Return the form of an event in CloudEvents' JSON format; raises Unreadable."""
    if not isinstance(event, dict):
        raise Unreadable("not_object", "an event is a JSON object")
    if "data" in event:
        payload = _payload(event["data"])
    elif event.get("data_base64") is not None:
        payload = {"dataBase64": _base64(event["data_base64"])}
    else:
        payload = {}
    return _form(event, payload)


def parsed(body: bytes) -> Any:
    """Return the value of a JSON text; raises Unreadable."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable("malformed", f"not JSON: {error}"[:500]) from None


def _form(attributes: Mapping[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    version = attributes.get("specversion")
    if version not in ("1.0", "1.0.0", "1.0.1", "1.0.2"):
        raise Unreadable("bad_field", f"specversion: 1.0, not {str(version)[:50]!r}")
    if not attributes.get("source"):
        raise Unreadable("bad_field", "source: missing")
    form: dict[str, Any] = {"payload": payload}
    metadata: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in _SPENT or value is None:
            continue
        if name in _FIELDS:
            form[_FIELDS[name]] = value
        elif name == "priority" and value in _PRIORITIES:
            form["priority"] = value
        elif name == "destination" and isinstance(value, str):
            form["destination"] = value
        else:
            metadata[_METADATA.get(name, name)] = value
    traceparent = metadata.get("traceparent")
    if isinstance(traceparent, str) and "traceId" not in metadata and (trace := _TRACEPARENT.fullmatch(traceparent)):
        metadata["traceId"] = trace[1]
    if metadata:
        form["metadata"] = metadata
    return form


def _payload(data: Any) -> dict[str, Any]:
    if isinstance(data, dict):
        return data
    if isinstance(data, bytes):
        return {"dataBase64": base64.b64encode(data).decode()}
    return {"data": data}


def _data_of(body: bytes, kind: str) -> Any:
    """Return the data as JSON, text, or the bytes that they are."""
    if _JSON.fullmatch(kind):
        return parsed(body)
    if not kind:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            return body
    if _TEXT.fullmatch(kind) and b"\0" not in body:
        try:
            return body.decode()
        except UnicodeDecodeError:
            return body
    return body


def _base64(value: Any) -> str:
    try:
        if isinstance(value, str):
            base64.b64decode(value, validate=True)
            return value
    except (binascii.Error, ValueError):
        pass
    raise Unreadable("bad_field", "data_base64: a text in base64")


def _http_value(value: str) -> str:
    """Undo what the HTTP binding does to a value: quotes of HTTP around it, then percent signs."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise Unreadable("bad_field", "a ce- header is no UTF-8 once its percent signs are decoded") from None
