"""Parameters of a run: which value wins, and whether it fits its type.

A value comes from the trigger, else the job's default, else the tenant, else the environment. Values are JSON data:
dates and paths stay texts, a secret is `{"secret": name}` and never the secret itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any, Final

from orchestrator.dag.problems import shown
from orchestrator.dag.reading import SECRET_NAME, is_number
from orchestrator.dag.spec import ParameterSpec
from orchestrator.errors import Detail
from orchestrator.expressions.placeholders import PlaceholderContext, render
from orchestrator.expressions.problems import InvalidPlaceholder, MissingReference

TYPES: Final = (
    "string",
    "integer",
    "number",
    "boolean",
    "date",
    "datetime",
    "path",
    "enum",
    "secret",
    "list",
    "object",
)
#: What a parameter's default may refer to: what is known before the run exists.
DEFAULT_ROOTS: Final = ("biz_date", "execution_date", "env", "run.logical_date")
#: One run's parameters, as JSON.
LARGEST_VALUES = 256 * 1024
#: Deep data kills the libraries that read it later.
DEEPEST_VALUE = 64

# The patterns are those of the JSON schema too, so that a form and a run take the same values; written for
# ECMA-262, where `\d` and `\s` mean other characters than in Python.
#: A day that the calendar has.
_DAY = (
    r"(?:(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_OFFSET = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])"
PATTERNS: Final = {
    "string": r"^[^\u0000]*$",
    "date": f"^{_DAY}$",
    "datetime": f"^{_DAY}[Tt]{_CLOCK}{_OFFSET}?$",
    # Not only blanks.
    "path": r"^[^\u0000]*[^\u0000-\u0020\u0085\u00a0\u3000][^\u0000]*$",
}
_COMPILED = {kind: re.compile(pattern[1:-1]) for kind, pattern in PATTERNS.items()}
_EXPECTED = {
    "string": "a text",
    "integer": "an integer of at most 64 bits",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date such as 2026-12-01",
    "datetime": "a date and time such as 2026-12-01T08:00:00+08:00",
    "path": "a path, not empty",
    "secret": "{secret: <name of a stored secret>}",
    "list": "a list",
    "object": "a mapping",
}


@dataclass(frozen=True, slots=True)
class ParameterContext:
    """What defaults may refer to."""

    execution_date: date
    env: str = ""
    #: RFC 3339, as `${run.logical_date}` gives it.
    logical_date: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of a run, in the order of the job; empty when there are problems."""

    values: Mapping[str, Any]
    problems: tuple[Detail, ...] = ()


def resolve_parameters(
    specs: Iterable[ParameterSpec],
    *,
    trigger: Mapping[str, Any],
    tenant: Mapping[str, Any],
    environment: Mapping[str, str],
    context: ParameterContext,
) -> Resolved:
    """Return every parameter's value, or all that is wrong with them.

    `environment` holds `UPBEAT_PARAM_<NAME>` variables as they are; their texts are read by the parameter's type.
    A parameter that is not required and has no value anywhere is left out. Placeholders stand in the job's
    defaults only: a value from outside is taken as it is.
    """
    specs = tuple(specs)
    known = {spec.name for spec in specs}
    problems = [
        _unknown(name, value, known) for name, value in trigger.items() if declared_name(name, known) not in known
    ]
    problems += [
        _twice(name, known) for name in trigger if name != (meant := declared_name(name, known)) and meant in trigger
    ]
    trigger = {declared_name(name, known): value for name, value in trigger.items()}
    values: dict[str, Any] = {}
    for spec in specs:
        found = _value_of(spec, trigger, tenant, environment, context)
        if isinstance(found, Detail):
            problems.append(found)
        elif found is not _ABSENT:
            values[spec.name] = found
    if not problems:
        size = len(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
        if size > LARGEST_VALUES:
            expected = f"at most {LARGEST_VALUES} bytes as JSON"
            problems.append(Detail("parameters", f"{size} bytes", expected))
    return Resolved({} if problems else values, tuple(problems))


def declared_name(name: str, known: Container[str]) -> str:
    """Return the parameter that a caller means: pipelines write `deployTime` for what a job declares as `deploy_time`.

    Names of a job have no capitals, so no two parameters can be meant by one name.
    """
    if name in known:
        return name
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
    return snake if snake in known else name


def read_texts(specs: Iterable[ParameterSpec], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return values from texts such as a command line gives: `--param n=5` is an integer if the job says so.

    A text that cannot be read so, or is of no parameter, stays a text, which `resolve_parameters` then refuses.
    """
    by_name = {spec.name: spec for spec in specs}
    declared = {name: by_name.get(declared_name(name, by_name)) for name in texts}
    return {name: _from_text(spec, texts[name]) if spec else texts[name] for name, spec in declared.items()}


def expected_of(spec: ParameterSpec) -> str:
    """Return in words what the parameter takes."""
    if spec.type == "enum":
        return "one of " + ", ".join(value if isinstance(value, str) else json.dumps(value) for value in spec.values)
    return _EXPECTED[spec.type]


def fits(spec: ParameterSpec, value: Any) -> bool:
    """Whether the value is of the parameter's type."""
    if value is None:
        return spec.has_default and spec.default is None
    if _deeper_than(value, DEEPEST_VALUE):
        return False
    match spec.type:
        case "string" | "date" | "datetime" | "path":
            return isinstance(value, str) and bool(_COMPILED[spec.type].fullmatch(value))
        case "integer":
            return is_number(value) and isinstance(value, int) and -(2**63) <= value < 2**63
        case "number":
            return is_number(value)
        case "boolean":
            return isinstance(value, bool)
        case "enum":
            # In Python True == 1 == 1.0; in a definition they are three values.
            return any(type(value) is type(choice) and value == choice for choice in spec.values)
        case "secret":
            return is_secret(value)
        case "list":
            return isinstance(value, (list, tuple))
        case _:
            return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_secret(value: Any) -> bool:
    """Whether the value refers to a stored secret."""
    return (
        isinstance(value, Mapping)
        and set(value) == {"secret"}
        and isinstance(value["secret"], str)
        and bool(SECRET_NAME.fullmatch(value["secret"]))
    )


_ABSENT: Final = object()


def _value_of(
    spec: ParameterSpec,
    trigger: Mapping[str, Any],
    tenant: Mapping[str, Any],
    environment: Mapping[str, str],
    context: ParameterContext,
) -> Any:
    variable = f"UPBEAT_PARAM_{spec.name.upper()}"
    if spec.name in trigger:
        value, origin = trigger[spec.name], ""
    elif spec.has_default:
        origin = "the job's default"
        try:
            value = render(spec.default, _placeholders(context))
        except (MissingReference, InvalidPlaceholder) as error:
            return _detail(spec, str(error), f"{expected_of(spec)} from {origin}")
    elif spec.name in tenant:
        value, origin = tenant[spec.name], "the tenant"
    elif variable in environment:
        value, origin = _from_text(spec, environment[variable]), f"the environment ({variable})"
    elif spec.required:
        return _detail(spec, None, f"a value: the parameter is required, {expected_of(spec)}")
    else:
        return _ABSENT
    value = _as_declared(spec, value)
    if fits(spec, value):
        return value
    return _detail(spec, value, expected_of(spec) + (f" from {origin}" if origin else ""))


def _as_declared(spec: ParameterSpec, value: Any) -> Any:
    """Return a number as its declaration writes it: to JSON, 5.0 and 5 are one number."""
    if not is_number(value):
        return value
    if spec.type == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if spec.type == "enum":
        return next((choice for choice in spec.values if is_number(choice) and choice == value), value)
    return value


def _detail(spec: ParameterSpec, value: Any, expected: str) -> Detail:
    # What was given for a secret may be the secret itself.
    return Detail(f"parameters.{spec.name}", "***" if spec.type == "secret" and value else shown(value), expected)


def _unknown(name: str, value: Any, known: set[str]) -> Detail:
    near = get_close_matches(name, known, n=1) if len(name) <= 64 else []
    expected = (
        f"a parameter of the job: {near[0]}?"
        if near
        else "a parameter of the job" + (f": {', '.join(sorted(known))}" if 0 < len(known) <= 20 else "")
    )
    # A misspelt parameter may be a secret's.
    return Detail(
        f"parameters.{shown(str(name))}", "***" if isinstance(value, (str, Mapping)) else shown(value), expected
    )


def _twice(name: str, known: Container[str]) -> Detail:
    return Detail(f"parameters.{shown(name)}", "***", f"one value: {declared_name(name, known)} is given too")


def _placeholders(context: ParameterContext) -> PlaceholderContext:
    return PlaceholderContext(execution_date=context.execution_date, env=context.env, logical_date=context.logical_date)


def _from_text(spec: ParameterSpec, text: str) -> Any:
    try:
        match spec.type:
            case "integer":
                return int(text) if len(text) <= 24 else text
            case "number":
                return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
            case "boolean":
                return {"true": True, "false": False}.get(text.lower(), text)
            case "list" | "object" | "secret":
                return json.loads(text)
            case "enum":
                return next((choice for choice in spec.values if _written(choice) == text), text)
    except (ValueError, RecursionError):
        return text
    return text


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for item in level
            if isinstance(item, (Mapping, list, tuple))
            for inner in (item.values() if isinstance(item, Mapping) else item)
        ]
        if not level:
            return False
    return True
