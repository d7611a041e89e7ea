"""A job's parameters as a JSON schema (2020-12), from which a form can be drawn.

What the schema accepts a trigger call accepts, and the other way round. What no schema can say, and only large
values meet: at most 256 KiB in all, 64 levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.dag.parameters import PATTERNS, ParameterContext, resolve_parameters
from orchestrator.dag.reading import SECRET_NAME
from orchestrator.dag.spec import ParameterSpec
from orchestrator.expressions.placeholders import texts_in

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TYPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "string": {"type": "string", "pattern": PATTERNS["string"]},
    "integer": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date", "pattern": PATTERNS["date"]},
    "datetime": {"type": "string", "format": "date-time", "pattern": PATTERNS["datetime"]},
    "path": {"type": "string", "pattern": PATTERNS["path"]},
    "enum": {},
    "list": {"type": "array"},
    "object": {"type": "object"},
    "secret": {
        "type": "object",
        "properties": {"secret": {"type": "string", "pattern": f"^{SECRET_NAME.pattern}$"}},
        "required": ["secret"],
        "additionalProperties": False,
    },
}
_SECRET_NOTE: Final = "The name of a stored secret; the secret itself is never sent."


def parameter_schema(
    specs: Iterable[ParameterSpec],
    *,
    tenant: Mapping[str, Any],
    environment: Mapping[str, str],
    context: ParameterContext,
    title: str,
    description: str = "",
) -> dict[str, Any]:
    """Return the schema of what a trigger call sends as `parameters`.

    A parameter that has no fitting value from the job, the tenant or the environment must be sent.
    """
    properties: dict[str, Any] = {}
    required = []
    for spec in specs:
        without = resolve_parameters((spec,), trigger={}, tenant=tenant, environment=environment, context=context)
        if without.problems:
            required.append(spec.name)
        properties[spec.name] = _property(spec, without.values)
    return {
        "$schema": DIALECT,
        "title": title,
        **({"description": description} if description else {}),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _property(spec: ParameterSpec, without: Mapping[str, Any]) -> dict[str, Any]:
    words = [text for text in (spec.description, _SECRET_NOTE if spec.type == "secret" else "") if text]
    schema: dict[str, Any] = {
        "title": spec.name.replace("_", " ").capitalize(),
        **({"description": " ".join(words)} if words else {}),
        "x-upbeat-type": spec.type,
        **_TYPES[spec.type],
    }
    if spec.type == "enum":
        schema["enum"] = list(spec.values)
    if spec.has_default and spec.default is None:
        schema = _or_null(schema)
    if _is_dynamic(spec):
        # Tomorrow its value is another one: it is shown, and no form sends it.
        schema["x-upbeat-default"] = spec.default
        if spec.name in without:
            schema["examples"] = [without[spec.name]]
    elif spec.name in without:
        schema["default"] = without[spec.name]
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _is_dynamic(spec: ParameterSpec) -> bool:
    return spec.has_default and any("${" in text for _, text in texts_in(spec.default))
