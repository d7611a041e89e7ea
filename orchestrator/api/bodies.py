"""Request bodies and query texts: every problem at once, each with its path, the value and what was expected.

Strict on purpose: a field that nobody reads is a caller's mistake, and a text where a number belongs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.http import HttpRequest
from rest_framework.request import Request

from orchestrator.dag.yaml_source import Limits
from orchestrator.errors import Detail, InvalidRequest, UpbeatError

LARGEST_BODY: Final = 1 << 20
#: A definition, as large as the parser takes one.
LARGEST_DEFINITION: Final = Limits().size
#: As deep as a definition may be; beyond, writers of JSON run out of stack.
DEEPEST: Final = 64
#: Where definitions are sent to.
_OF_DEFINITIONS: Final = ("/api/v1/jobs", "/api/v1/templates")
#: Longer values are cut in the answer that quotes them.
QUOTED: Final = 200


class TooLarge(UpbeatError):
    """The body is too large."""

    code = "too_large"
    status = 413


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a body: what it must be, and whether it must be there."""

    expected: str
    accepts: Callable[[Any], bool]
    required: bool = False
    default: Any = None


def text(longest: int = 500, *, required: bool = False) -> Field:
    return Field(
        f"a text of at most {longest} characters", lambda v: isinstance(v, str) and len(v) <= longest, required, ""
    )


def name(expected: str, *, required: bool = True) -> Field:
    return Field(expected, lambda v: isinstance(v, str) and 0 < len(v) <= 200, required)


def mapping() -> Field:
    return Field("an object", lambda v: isinstance(v, dict), default={})


def texts(expected: str, *, longest: int) -> Field:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= longest
            and all(isinstance(item, str) and len(item) <= QUOTED for item in value)
        )

    return Field(expected, accepts, default=[])


def moment() -> Field:
    return Field("a moment such as 2027-01-31T06:00:00Z", lambda value: _moment_of(value) is not None)


def as_moment(value: Any) -> datetime | None:
    """Return the moment that a body's text names, None for none."""
    return None if value is None else _moment_of(value)


def _moment_of(value: Any) -> datetime | None:
    if not isinstance(value, str) or "T" not in value or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        # Without a zone nobody knows which moment it is.
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def read_body(request: HttpRequest | Request, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the body's fields, defaults filled in; raises InvalidRequest with all problems. No body is `{}`."""
    return parse_body(read_raw(request, LARGEST_BODY), fields)


def read_raw(request: HttpRequest | Request, most: int) -> bytes:
    """Return the body as it came; raises TooLarge beyond `most` bytes."""
    django_request: HttpRequest = getattr(request, "_request", request)
    if _length(django_request) > most or len(django_request.body) > most:
        raise TooLarge(f"The body is too large: at most {most} bytes.")
    return django_request.body


def largest_body(path: str) -> int:
    """Return how large the body of a call to this path may be; its view may allow less."""
    return LARGEST_DEFINITION if path.startswith(_OF_DEFINITIONS) else LARGEST_BODY


def read_object(request: HttpRequest | Request) -> dict[str, Any]:
    """Return the body as an object whose fields are somebody else's to check; raises InvalidRequest."""
    raw = read_raw(request, LARGEST_BODY)
    body = _object(raw)
    if problems := _unstorable(body, nul=b"\\u0000" in raw):
        raise InvalidRequest("The body has problems.", details=tuple(problems))
    return body


def parse_body(raw: bytes, fields: Mapping[str, Field]) -> dict[str, Any]:
    body = _object(raw)
    problems = [
        Detail(path, quoted(value), "no such field; known: " + (", ".join(fields) or "none"))
        for path, value in body.items()
        if path not in fields
    ]
    values = {}
    for path, field in fields.items():
        if path not in body:
            if field.required:
                problems.append(Detail(path, None, field.expected))
            values[path] = field.default
        elif field.accepts(body[path]):
            values[path] = body[path]
        else:
            problems.append(Detail(path, quoted(body[path]), field.expected))
    problems += _unstorable(body, nul=b"\\u0000" in raw)
    if problems:
        raise InvalidRequest("The body has problems.", details=tuple(problems))
    return values


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            "The body is not JSON.",
            details=(Detail(f"line {error.lineno}, column {error.colno}", None, f"JSON: {error.msg}"),),
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not an object.", details=(Detail("", quoted(body), "an object"),))
    return body


def check_query(request: Request, allowed: Iterable[str]) -> Mapping[str, str]:
    """Return the query's texts; raises InvalidRequest for one that the view does not read or that comes twice."""
    known = tuple(allowed)
    problems = []
    for key, values in request.query_params.lists():
        if key not in known:
            problems.append(Detail(key, quoted(values[-1]), "one of " + (", ".join(known) or "nothing")))
        elif len(values) > 1:
            problems.append(Detail(key, quoted(values), "one value"))
        elif "\0" in values[0]:
            problems.append(Detail(key, None, "text without NUL characters"))
    if problems:
        raise InvalidRequest("The query has problems.", details=tuple(problems))
    return request.query_params


def whole_number(query: Mapping[str, str], key: str, *, default: int, least: int, most: int) -> int:
    value = query.get(key)
    if value is None:
        return default
    if value.isascii() and value.isdigit() and len(value) < 19 and least <= int(value) <= most:
        return int(value)
    raise InvalidRequest(
        "The query has problems.", details=(Detail(key, quoted(value), f"a whole number from {least} to {most}"),)
    )


def quoted(value: Any) -> Any:
    """Return the value as an error may repeat it: short, and never a structure of any size."""
    if isinstance(value, str):
        return value if len(value) <= QUOTED else value[:QUOTED] + "…"
    if isinstance(value, (dict, list)):
        shown = orjson.dumps(value).decode()
        return shown if len(shown) <= QUOTED else shown[:QUOTED] + "…"
    return value


def _unstorable(body: dict[str, Any], *, nul: bool) -> list[Detail]:
    """Name what a database would refuse in a JSON column, or what nobody could write again."""
    pending: list[tuple[str, Any, int]] = [(key, value, 2) for key, value in body.items()]
    while pending:
        path, value, depth = pending.pop()
        if depth > DEEPEST:
            return [Detail(path[:QUOTED], None, f"at most {DEEPEST} levels")]
        if isinstance(value, dict):
            pending.extend((f"{path}.{key}", inner, depth + 1) for key, inner in value.items())
            if nul and any("\0" in key for key in value):
                return [Detail(path, None, "names without NUL characters")]
        elif isinstance(value, list):
            pending.extend((f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(value))
        elif nul and isinstance(value, str) and "\0" in value:
            return [Detail(path, None, "text without NUL characters")]
    return []


def _length(request: HttpRequest) -> int:
    declared = request.META.get("CONTENT_LENGTH") or "0"
    return int(declared) if declared.isdigit() else 0
