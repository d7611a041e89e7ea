"""The fields of an `http` task: their schema, what no schema can say, and their reading once they are rendered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast
from urllib.parse import quote, urlencode

from orchestrator.expressions.environment import Environment
from orchestrator.expressions.placeholders import texts_in
from orchestrator.expressions.problems import InvalidExpression
from orchestrator.expressions.program import Condition, compile_condition
from orchestrator.registry import FieldProblem, TaskType
from orchestrator.store import RESULT_BYTES
from orchestrator.units import DURATION, SIZE, bytes_of, seconds_of

Path = tuple[str | int, ...]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BODIES = ("json", "body", "form")
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
BODY_BYTES = 4 * 2**20
#: More is a loop.
MOST_REDIRECTS = 20
LONGEST = 366 * 86400.0
#: How a message is framed and how long a connection lives is decided by the executor; two answers to that question
#: would be two requests in one.
FRAMING = frozenset(
    ("connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
     "upgrade")
)  # fmt: skip

TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
SCALAR = {"type": ["string", "number", "boolean"]}
VALUES = {"type": ["string", "number", "boolean", "array", "null"], "items": SCALAR}
TIME = {"type": ["string", "number"]}

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["url"],
    "additionalProperties": False,
    "properties": {
        "url": {"type": "string", "minLength": 1, "description": "An http:// or https:// address."},
        "method": {"enum": list(METHODS), "default": "GET"},
        "query": {
            "type": "object",
            "additionalProperties": VALUES,
            "description": "Added to the address, encoded; a list repeats its name.",
        },
        "headers": {
            "type": "object",
            "propertyNames": {"pattern": TOKEN},
            "additionalProperties": SCALAR,
            "description": "Header fields of the request.",
        },
        "json": {"description": "The body, as JSON."},
        "body": {"type": "string", "description": "The body, as a text."},
        "form": {
            "type": "object",
            "additionalProperties": VALUES,
            "description": "The body, as the fields of a form.",
        },
        "expect": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "status": {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {"type": "integer", "minimum": 200, "maximum": 599},
                    "description": "Status codes that mean success; default: 200 to 299.",
                },
                "body": {
                    "type": "string",
                    "minLength": 1,
                    "description": "A condition in CEL over status, headers, json and text.",
                },
            },
        },
        "timeouts": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "connect": {**TIME, "default": "5s", "description": "For name, connection and TLS together."},
                "read": {**TIME, "default": "30s", "description": "Longest silence of the server."},
            },
        },
        "tls_verify": {"type": "boolean", "default": True, "description": "Check the server's certificate."},
        "follow_redirects": {
            "type": "integer",
            "minimum": 0,
            "maximum": MOST_REDIRECTS,
            "default": 0,
            "description": "How many redirects are followed.",
        },
        "max_body": {
            "type": ["string", "integer"],
            "default": "4Mi",
            "description": "The largest body that is read, at most 64Mi.",
        },
        "result": {"enum": ["none", "body"], "default": "none", "description": "body: the answer's JSON."},
    },
}


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The fields of an http task, rendered and read."""

    #: With `query` added to it; may hold a user and a password.
    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    #: What `body` is unless `headers` say otherwise.
    content_type: str = ""
    #: None: 200 to 299.
    statuses: tuple[int, ...] | None = None
    condition: Condition | None = None
    connect_timeout: float = CONNECT_SECONDS
    read_timeout: float = READ_SECONDS
    tls_verify: bool = True
    follow_redirects: int = 0
    max_body: int = BODY_BYTES
    result: Literal["none", "body"] = "none"


class BadField(Exception):
    """A field is not what the executor can use. `value` is None where it is nobody's business."""

    def __init__(self, path: Path, message: str, expected: str, value: Any = None) -> None:
        self.problem = FieldProblem(path, message, expected, value)
        super().__init__(self.words(str))

    def words(self, redact: Callable[[str], str]) -> str:
        """Return the problem as one sentence. A value is masked before it is cut: half a secret is not recognised."""
        path, value = ".".join(map(str, self.problem.path)), self.problem.value
        found = "" if value is None else f": {_shown(value, redact)}"
        return f"{path}: {self.problem.message}{found}; expected {self.problem.expected}"


@lru_cache(maxsize=1)
def answer_environment() -> Environment:
    """Return what `expect.body` may read."""
    return Environment(maps=("headers",), values=("status", "json", "text"))


@lru_cache(maxsize=1024)
def answer_condition(source: str) -> Condition:
    """Return the compiled `expect.body`, from a bounded cache; raises InvalidExpression."""
    return compile_condition(source, answer_environment())


def check(config: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield the problems that no schema can say; what holds a placeholder is checked again when it is rendered."""
    present = [name for name in BODIES if name in config]
    for name in present[1:]:
        yield FieldProblem((name,), f"a second body beside {present[0]}", "only one of json, body and form")
    for path, read in _CHECKS:
        value = _at(config, path)
        if value is None or any(True for _ in texts_in(value)):
            continue
        try:
            read(path, value)
        except BadField as bad:
            yield bad.problem
    headers = config.get("headers")
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        try:
            _header_name(name)
            if isinstance(value, str) and "${" not in value:
                _header_value(name, value)
        except BadField as bad:
            yield bad.problem


def read_config(config: Mapping[str, Any]) -> HttpConfig:
    """Read the rendered fields. A placeholder may have put any type where its schema had a text; raises BadField."""
    for name in config:
        if name not in SCHEMA["properties"]:
            raise BadField((name,), "unknown field", f"one of {', '.join(SCHEMA['properties'])}")
    if "url" not in config:
        raise BadField(("url",), "missing", "an http:// or https:// address")
    _url(("url",), config["url"])
    body, content_type = _body(config)
    expect = _mapping(("expect",), config.get("expect"), ("status", "body"))
    timeouts = _mapping(("timeouts",), config.get("timeouts"), ("connect", "read"))
    source = expect.get("body")
    return HttpConfig(
        url=_with_query(config["url"], _pairs("query", config.get("query"))),
        method=_one_of(("method",), config.get("method", "GET"), METHODS),
        headers=tuple(_headers(config.get("headers"))),
        body=body,
        content_type=content_type,
        statuses=_statuses(expect.get("status")),
        condition=None if source is None else _condition(("expect", "body"), source),
        connect_timeout=_seconds(("timeouts", "connect"), timeouts.get("connect", CONNECT_SECONDS)),
        read_timeout=_seconds(("timeouts", "read"), timeouts.get("read", READ_SECONDS)),
        tls_verify=_boolean(("tls_verify",), config.get("tls_verify", True)),
        follow_redirects=_count(("follow_redirects",), config.get("follow_redirects", 0)),
        max_body=_size(("max_body",), config.get("max_body", BODY_BYTES)),
        result=cast(Literal["none", "body"], _one_of(("result",), config.get("result", "none"), ("none", "body"))),
    )


def _url(path: Path, value: Any) -> str:
    expected = "an http:// or https:// address"
    if not isinstance(value, str):
        raise BadField(path, "wrong type", expected, value)
    if not re.match(r"https?://[^\s/?#]", value, re.IGNORECASE):
        raise BadField(path, "not an address that can be called", expected, without_credentials(value))
    if any(ord(c) < 0x20 or c == "\x7f" for c in value):
        raise BadField(path, "has a control character", expected)
    return _encodable(path, value)


def without_credentials(url: str) -> str:
    """Return the address with stars for a user and a password, whether or not it is a proper one."""
    return re.sub(r"//[^/?#]*@", "//***@", url)


def _with_query(url: str, pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return url
    base, _, _ = url.partition("#")
    joint = "" if base.endswith(("?", "&")) else "&" if "?" in base else "?"
    return f"{base}{joint}{urlencode(pairs, quote_via=quote, safe='')}"


def _body(config: Mapping[str, Any]) -> tuple[bytes | None, str]:
    present = [name for name in BODIES if name in config]
    if len(present) > 1:
        raise BadField((present[1],), f"a second body beside {present[0]}", "only one of json, body and form")
    if not present:
        return None, ""
    name = present[0]
    value = config[name]
    if name == "body":
        if not isinstance(value, str):
            raise BadField(("body",), "wrong type", "a text", value)
        return _encodable(("body",), value).encode(), "text/plain; charset=utf-8"
    if name == "form":
        text = urlencode(_pairs("form", value))
        return text.encode(), "application/x-www-form-urlencoded"
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadField(("json",), f"cannot be written as JSON: {error}", "JSON data") from None
    return _encodable(("json",), text).encode(), "application/json"


def _pairs(field: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise BadField((field,), "wrong type", "a mapping of names to values", value)
    pairs: list[tuple[str, str]] = []
    for name, given in value.items():
        path = (field, name)
        # Without a value there is nothing to send; a list sends its name once for each entry.
        for item in given if isinstance(given, (list, tuple)) else () if given is None else (given,):
            pairs.append((_encodable(path, name), _encodable(path, _scalar(path, item))))
    return pairs


def _headers(value: Any) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise BadField(("headers",), "wrong type", "a mapping of names to values", value)
    seen: set[str] = set()
    for name, given in value.items():
        _header_name(name)
        if name.lower() in seen:
            raise BadField(("headers", name), "the same header twice", "each name once")
        seen.add(name.lower())
        yield name, _header_value(name, _scalar(("headers", name), given))


def _header_name(name: Any) -> None:
    if not isinstance(name, str) or not re.match(TOKEN, name) or name.endswith("\n"):
        raise BadField(("headers", name), "not a header's name", "letters, digits and hyphens")
    if name.lower() in FRAMING:
        raise BadField(("headers", name), "a header that is not the task's to set", "another header")


def _header_value(name: str, value: str) -> str:
    # The value is not shown: it may be a secret that came with a line break.
    if "\r" in value or "\n" in value:
        raise BadField(("headers", name), "has a line break, which would begin another header", "one line")
    if any((ord(c) < 0x20 and c != "\t") or c == "\x7f" for c in value):
        raise BadField(("headers", name), "has a control character", "a text")
    return _encodable(("headers", name), value.strip(" \t"))


def _condition(path: Path, source: Any) -> Condition:
    if not isinstance(source, str) or not source:
        raise BadField(path, "wrong type", "a CEL expression", source)
    try:
        return answer_condition(source)
    except InvalidExpression as error:
        problem = error.problems[0]
        names = "status, headers, json or text"
        expected = names if problem.undeclared else "a CEL expression that is true or false"
        raise BadField(path, f"condition: {problem}", expected, source) from None


def _statuses(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    path = ("expect", "status")
    if not isinstance(value, (list, tuple)) or not value:
        raise BadField(path, "wrong type", "a list of status codes", value)
    for code in value:
        if not isinstance(code, int) or isinstance(code, bool) or not 200 <= code <= 599:
            raise BadField(path, "not a final status code", "200 to 599", code)
    return tuple(value)


def _seconds(path: Path, value: Any) -> float:
    number = seconds_of(value) if isinstance(value, str) else float(value) if _is_number(value) else None
    if number is None:
        raise BadField(path, "not a duration", DURATION, value)
    if not 0 < number <= LONGEST:
        raise BadField(path, "duration out of range", "more than 0 to 366d", value)
    return number


def _size(path: Path, value: Any) -> int:
    size = bytes_of(value) if isinstance(value, str) else value if _is_number(value) else None
    if not isinstance(size, int):
        raise BadField(path, "not a size", SIZE, value)
    if not 0 < size <= RESULT_BYTES:
        raise BadField(path, "size out of range", "more than 0 to 64Mi", value)
    return size


def _boolean(path: Path, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadField(path, "wrong type", "true or false", value)
    return value


def _count(path: Path, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_REDIRECTS:
        raise BadField(path, "not a number of redirects", f"0 to {MOST_REDIRECTS}", value)
    return value


def _one_of(path: Path, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise BadField(path, "not a known value", " | ".join(choices), value)
    return str(value)


def _mapping(path: Path, value: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or set(value) - set(known):
        raise BadField(path, "not as it should be", f"a mapping with {' and '.join(known)}", value)
    return value


def _scalar(path: Path, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or _is_number(value):
        return json.dumps(value)
    raise BadField(path, "wrong type", "a text, a number, true or false", value)


def _encodable(path: Path, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadField(path, "has characters that are no text", "text that can be encoded as UTF-8") from None
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _at(config: Mapping[str, Any], path: Path) -> Any:
    value: Any = config
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(cast(str, step))
    return value


def _shown(value: Any, redact: Callable[[str], str]) -> str:
    text = repr(redact(value)) if isinstance(value, str) else redact(repr(value))
    return text if len(text) <= 120 else f"{text[:117]}…"


def _if(read: Callable[[Path, Any], Any], *types: type) -> Callable[[Path, Any], Any]:
    """Leave other types to the schema, which has refused them."""
    return lambda path, value: read(path, value) if type(value) in types else None


_CHECKS: tuple[tuple[Path, Callable[[Path, Any], Any]], ...] = (
    (("url",), _if(_url, str)),
    (("expect", "body"), _if(_condition, str)),
    (("timeouts", "connect"), _if(_seconds, str, int, float)),
    (("timeouts", "read"), _if(_seconds, str, int, float)),
    (("max_body",), _if(_size, str, int)),
)

TYPE = TaskType(
    name="http",
    label="HTTP request",
    schema=SCHEMA,
    # An expectation with a value pasted in would be another expression than the one that was checked.
    fixed_text=("expect",),
    values_in=(),
    check=check,
)
