"""What a kind of source is: its fields, its secrets, and what is wrong with them. How it receives is its listener's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from orchestrator.errors import Detail
from orchestrator.registry import FieldProblem

#: Fields that every kind has.
COMMON: Final[Mapping[str, Any]] = {
    "max_bytes": {
        "type": "integer",
        "minimum": 1,
        "maximum": 16 * 2**20,
        "description": "Bytes of one message at most; a larger one is a dead letter. 1 MiB unless given.",
    },
    "allowed_sources": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 200},
        "maxItems": 200,
        "description": "What a message may name as its source; empty: anything but platform, schedule and rule.",
    },
    "tenant": {
        "type": "string",
        "maxLength": 4096,
        "description": "CEL over the event that gives the slug of its tenant; without it all belong to the source's.",
    },
    "tenants": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 63},
        "maxItems": 1000,
        "description": "The tenants that `tenant` may name.",
    },
    "trigger_calls": {
        "type": "boolean",
        "description": "Whether a body with jobName starts that job; only on schedule-tasks and schedule.main.queue "
        "unless given.",
    },
}


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source that an administrator may set up."""

    name: str
    label: str
    #: JSON schema (an object with `additionalProperties: false`) of its config: `object_schema` makes one.
    schema: Mapping[str, Any]
    #: What a secret may be for: keys of `EventSource.secrets`, whose values are names of stored secrets.
    secret_names: tuple[str, ...]
    default_id_policy: str
    #: Rules that no schema can say, over config and secrets; pure, and quiet about what the schema refuses.
    check: Callable[[Mapping[str, Any], Mapping[str, str]], Iterable[FieldProblem]] | None = None
    #: Whether a listener of its own reads it; a webhook is called instead.
    listens: bool = True

    def problems(self, config: Mapping[str, Any], secrets: Mapping[str, str]) -> list[Detail]:
        """Return everything that is wrong with the fields of a source, by paths such as `config.topics[0]`."""
        found = [Detail(_path("config", problem.path), *_said(problem)) for problem in _schema_problems(self, config)]
        found += [
            Detail(f"secrets.{role}", None, "no such secret; known: " + (", ".join(self.secret_names) or "none"))
            for role in secrets
            if role not in self.secret_names
        ]
        if self.check is not None and not found:
            found += [Detail(_path("", problem.path), *_said(problem)) for problem in self.check(config, secrets)]
        return found


def object_schema(properties: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    """Return the schema of a config with these fields and those that every kind has."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {**COMMON, **properties},
        "required": list(required),
        "additionalProperties": False,
        # A mapping onto tenants that names none would make a dead letter of everything.
        "dependentRequired": {"tenant": ["tenants"]},
    }


def _schema_problems(kind: SourceKind, config: Mapping[str, Any]) -> Iterable[FieldProblem]:
    validator = jsonschema_rs.Draft202012Validator(dict(kind.schema))
    known = ", ".join(sorted(kind.schema["properties"]))
    for error in validator.iter_errors(dict(config)):
        path = tuple(error.instance_path)
        shape: Any = error.kind  # its attributes differ from kind to kind
        match shape.name:
            case "required":
                yield FieldProblem((*path, shape.property), "missing", "a value")
            case "additionalProperties":
                for name in shape.unexpected:
                    yield FieldProblem((*path, name), "unknown", f"one of {known}" if not path else "no such field")
            case "enum":
                yield FieldProblem(path, "not a known value", " | ".join(map(str, shape.options)), error.instance)
            case _:
                yield FieldProblem(path, "does not fit", error.message[:300], error.instance)


def _said(problem: FieldProblem) -> tuple[Any, str]:
    value = problem.value if isinstance(problem.value, (str, int, float, bool, type(None))) else str(problem.value)
    if isinstance(value, str) and len(value) > 200:
        value = value[:200] + "…"
    return value, f"{problem.message}: {problem.expected}" if problem.message else problem.expected


def _path(root: str, path: tuple[str | int, ...]) -> str:
    shown = root
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += f".{part}" if shown else part
    return shown
