"""Fields that local processes have in common: their JSON schema, and how a rendered value is read.

A placeholder may have put any type where the schema had a text, so every field is looked at again before it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

ResultFrom = Literal["none", "json", "file"]

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
SCALAR = {"type": ["string", "number", "boolean"]}

ENV: dict[str, Any] = {
    "type": "object",
    "propertyNames": {"pattern": NAME},
    "additionalProperties": SCALAR,
    "description": "Environment variables of the process.",
}
CWD: dict[str, Any] = {
    "type": "string",
    "pattern": "^/",
    "description": "Where it runs; default: a fresh directory of the attempt.",
}
#: What `shell` and `script` share.
COMMAND_FIELDS: dict[str, Any] = {
    "args": {"type": "array", "items": SCALAR, "description": 'Reach it as "$@".'},
    "env": ENV,
    "cwd": CWD,
    "result": {
        "enum": ["none", "json", "file"],
        "default": "none",
        "description": "json: the last line of standard output; file: the path in $UPBEAT_RESULT.",
    },
    "success_codes": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "integer", "minimum": 0, "maximum": 255},
        "default": [0],
        "description": "Exit codes that mean success.",
    },
}


class BadField(Exception):
    """A rendered field is not what the executor can use."""

    def __init__(self, field: str, value: Any, expected: str) -> None:
        super().__init__(f"{field}: {shown(value)} is not {expected}")


@dataclass(frozen=True, slots=True)
class ProcessFields:
    """Where a process runs, what it is told, and what its end means."""

    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    result: ResultFrom = "none"
    success_codes: tuple[int, ...] = (0,)


def read_fields(config: Mapping[str, Any]) -> ProcessFields:
    """Check what `shell` and `script` share. Raises BadField."""
    return ProcessFields(
        args=tuple(argument(value, f"args[{n}]") for n, value in enumerate(sequence(config.get("args") or (), "args"))),
        env=env(config.get("env") or {}),
        cwd=absolute_path(config["cwd"], "cwd") if config.get("cwd") is not None else None,
        result=_result(config.get("result") or "none"),
        success_codes=_codes(config.get("success_codes", (0,))),
    )


def refuse_unknown(config: Mapping[str, Any], schema: Mapping[str, Any], what: str) -> None:
    """Raise BadField for a field that the schema does not have."""
    known = schema["properties"]
    for name in sorted(config.keys() - known.keys()):
        raise BadField(name, config[name], f"a field of a {what} task ({', '.join(known)})")


def text(value: Any, field: str) -> str:
    """Check a text that is not empty. Raises BadField."""
    if not isinstance(value, str) or not value:
        raise BadField(field, value, "a text")
    return _encodable(value, field)


def argument(value: Any, field: str) -> str:
    """Turn a rendered value into the text that a process sees. Raises BadField."""
    if value is None:
        return ""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _encodable(words, field)


def sequence(value: Any, field: str) -> Sequence[Any]:
    """Check a list. Raises BadField."""
    if not isinstance(value, (list, tuple)):
        raise BadField(field, value, "a list")
    return value


def env(value: Any) -> dict[str, str]:
    """Check environment variables. Raises BadField."""
    if not isinstance(value, Mapping):
        raise BadField("env", value, "a mapping of names to values")
    for name in value:
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise BadField("env", name, "a name of letters, digits and underscores")
    return {name: argument(item, f"env.{name}") for name, item in value.items()}


def absolute_path(value: Any, field: str) -> str:
    """Check a path from the root. Raises BadField."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise BadField(field, value, "an absolute path")
    return _encodable(value, field)


def positive(values: Mapping[str, Any], name: str, field: str) -> float | None:
    """Check a number above zero, None if it is not given. Raises BadField."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise BadField(field, value, "a positive number")
    return value


def shown(value: Any) -> str:
    """Return a value as a reason shows it: short, texts of ours without quotes."""
    words = value if isinstance(value, str) and value.startswith("the ") else repr(value)
    return words if len(words) <= 120 else f"{words[:117]}…"


def _encodable(words: str, field: str) -> str:
    if "\0" in words:
        raise BadField(field, words, "free of NUL characters, which no process can be given")
    try:
        os.fsencode(words)
    except UnicodeEncodeError:
        raise BadField(field, words, "text that can be encoded as UTF-8") from None
    return words


def _result(value: Any) -> ResultFrom:
    if value not in ("none", "json", "file"):
        raise BadField("result", value, "none, json or file")
    return cast(ResultFrom, value)


def _codes(value: Any) -> tuple[int, ...]:
    codes = sequence(value, "success_codes")
    for code in codes:
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 255:
            raise BadField("success_codes", code, "an exit code, 0 to 255")
    return tuple(codes)
