"""Log lines as JSON, each with the job, run, task and attempt it belongs to.

`bound(job=…, run=…)` sets the fields for a block; threads and coroutines each have their own. Lines carry no
secrets: what looks like one of our tokens or a password in a URL is masked, and so are fields named like one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import orjson

MASK: Final = "***"

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("upbeat_log_fields", default=_NOTHING)

#: What every record has: all else came by `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_FIELD = re.compile(r"token$|secret$|secrets$|password|authorization|api_?key|^cookie", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(upb_)[A-Za-z0-9_-]{8,}|(://[^:/?#\s@]*:)[^@\s/]+(?=@)|(Bearer )[A-Za-z0-9._~+/=-]{8,}")


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields to every line that this block logs."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def masked(text: str) -> str:
    """Return the text without tokens and passwords that it may quote."""
    if "upb_" not in text and "://" not in text and "Bearer " not in text:
        return text
    return _SECRET_TEXT.sub(lambda match: (match[1] or match[2] or match[3]) + MASK, text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the bound fields, extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": masked(_message(record)),
            **_bound.get(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                # A field must not hide what every line has.
                line[name if name not in line else f"extra_{name}"] = _shown(name, value)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = masked(self.formatException(record.exc_info))
        elif record.exc_text:
            line["exception"] = masked(record.exc_text)
        if record.stack_info:
            line["stack"] = masked(self.formatStack(record.stack_info))
        return _dump(line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a wrong placeholder in somebody's log call must not lose the line
        return f"{record.msg} {record.args!r}"


def _shown(name: str, value: Any) -> Any:
    if _SECRET_FIELD.search(name):
        return MASK
    return masked(value) if isinstance(value, str) else value


def _dump(line: dict[str, Any]) -> str:
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
    try:
        return orjson.dumps(line, default=lambda value: masked(repr(value)), option=options).decode()
    except (TypeError, ValueError, RecursionError):
        # What orjson refuses even so: broken surrogates, integers beyond 64 bits, cycles.
        plain = {name: value if isinstance(value, str) else masked(repr(value)) for name, value in line.items()}
        plain["time"] = line["time"].isoformat()
        return orjson.dumps({n: v.encode("utf-8", "replace").decode() for n, v in plain.items()}).decode()
