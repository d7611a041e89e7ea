"""The form of a job's parameters: one field a parameter, drawn from its type, read back into JSON values.

What a field shows is what is sent: a default that is known now stands in it, one that changes from day to day
(`${biz_date}`) is told beside it and sent by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.dag.parameters import Resolved, expected_of, is_secret, read_texts
from orchestrator.dag.problems import shown
from orchestrator.dag.spec import ParameterSpec
from orchestrator.errors import Detail

#: Names of fields begin so: parameters may be called as anything that a form has beside them.
PREFIX: Final = "param."
#: A text in a field, in characters; beyond, a trigger call is the way.
LONGEST_TEXT: Final = 256 * 1024

_INPUTS: Final[Mapping[str, str]] = {
    "boolean": "select",
    "enum": "select",
    "secret": "select",
    "date": "date",
    "list": "area",
    "object": "area",
}
_HINTS: Final[Mapping[str, str]] = {
    "datetime": "2026-12-01T08:00:00+08:00",
    "list": '["a", "b"]',
    "object": '{"key": "value"}',
}


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of a selection."""

    value: str
    word: str


@dataclass(frozen=True, slots=True)
class ParameterField:
    """One field as the page draws it."""

    spec: ParameterSpec
    #: text, area, date or select.
    input: str
    value: str
    is_required: bool
    #: What it takes, in words.
    expected: str
    #: What an empty field means, "" where it says nothing.
    when_empty: str = ""
    choices: tuple[Choice, ...] = ()
    hint: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        return PREFIX + self.spec.name

    @property
    def rows(self) -> int:
        return min(max(self.value.count("\n") + 1, 3), 16)


@dataclass(frozen=True, slots=True)
class ReadForm:
    """What was sent: the values to start a run with, and what could not be read, by parameter."""

    values: Mapping[str, Any] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def fields_of(
    specs: Iterable[ParameterSpec],
    *,
    without: Mapping[str, Resolved],
    secrets: Sequence[str],
    texts: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
    problems: Mapping[str, str] | None = None,
) -> list[ParameterField]:
    """Return the fields of a job's parameters, in their order.

    `without` says what each parameter comes to if nothing is given, `texts` what somebody has typed already, `given`
    values to begin with, such as those of an earlier run.
    """
    return [
        _field(spec, without[spec.name], secrets, texts, given or {}, (problems or {}).get(spec.name, ""))
        for spec in specs
    ]


def read_form(specs: Iterable[ParameterSpec], texts: Mapping[str, str]) -> ReadForm:
    """Return the values of texts that a form sent, by parameter. What fits no type is left to the resolution."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for spec in specs:
        text = texts.get(spec.name)
        if text is None:
            continue
        if len(text) > LONGEST_TEXT:
            problems[spec.name] = f"{len(text)} characters; expected at most {LONGEST_TEXT}"
            continue
        # Browsers send every line break as two characters.
        text = text.replace("\r\n", "\n")
        if spec.type != "string":
            text = text.strip()
        if not text:
            if spec.type == "string" and spec.has_default and isinstance(spec.default, str) and not _is_dynamic(spec):
                # The default stood in the field, and somebody has emptied it.
                values[spec.name] = ""
            continue
        if spec.type in ("list", "object"):
            try:
                values[spec.name] = json.loads(text, parse_constant=_no_number)
            except json.JSONDecodeError as error:
                problems[spec.name] = (
                    f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}; expected {expected_of(spec)}"
                )
            except (ValueError, RecursionError) as error:
                problems[spec.name] = f"not JSON: {error}; expected {expected_of(spec)}"
        elif spec.type == "secret":
            values[spec.name] = {"secret": text}
        else:
            values.update(read_texts((spec,), {spec.name: text}))
    return ReadForm(values, problems)


def problems_of(details: Iterable[Detail]) -> tuple[dict[str, str], list[str]]:
    """Sort the problems of a refusal: those of a parameter by its name, and all others in words."""
    by_name: dict[str, str] = {}
    others: list[str] = []
    for detail in details:
        found = "" if detail.value is None else f"{json.dumps(detail.value, ensure_ascii=False)}: "
        name = detail.path.removeprefix("parameters.")
        if name != detail.path:
            by_name[name] = f"{found}expected {detail.expected}"
        else:
            others.append(f"{detail.path}: {found}expected {detail.expected}")
    return by_name, others


def text_of(spec: ParameterSpec, value: Any) -> str:
    """Return a value as a field shows it."""
    if value is None:
        return ""
    if spec.type == "secret" and is_secret(value):
        return str(value["secret"])
    if isinstance(value, str):
        return value
    indent = 2 if isinstance(value, (dict, list)) and len(json.dumps(value)) > 60 else None
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _field(
    spec: ParameterSpec,
    without: Resolved,
    secrets: Sequence[str],
    texts: Mapping[str, str] | None,
    given: Mapping[str, Any],
    problem: str,
) -> ParameterField:
    default = without.values.get(spec.name)
    # Nothing fits without it: it has no value, or one that is refused.
    is_required = bool(without.problems)
    dynamic = _is_dynamic(spec)
    if texts is not None:
        value = texts.get(spec.name, "")
    elif spec.name in given:
        value = text_of(spec, given[spec.name])
    else:
        value = "" if dynamic else text_of(spec, default)
    kind = _INPUTS.get(spec.type, "text")
    if kind == "text" and spec.type == "string" and "\n" in (value + text_of(spec, spec.default)):
        kind = "area"
    if kind == "date" and value and len(value) != len("2026-12-01"):
        # A browser shows nothing of what is no date, and would hide what is wrong.
        kind = "text"
    return ParameterField(
        spec=spec,
        input=kind,
        value=value,
        is_required=is_required,
        expected=expected_of(spec) if spec.type != "secret" else "the name of a stored secret; it is never shown",
        when_empty=_when_empty(spec, without, is_required=is_required, dynamic=dynamic),
        choices=tuple(_choices(spec, secrets, value, may_be_empty=not is_required)) if kind == "select" else (),
        hint=_HINTS.get(spec.type, ""),
        problem=problem,
    )


def _when_empty(spec: ParameterSpec, without: Resolved, *, is_required: bool, dynamic: bool) -> str:
    if is_required:
        return ""
    if spec.name not in without.values:
        return "empty: not given"
    value = without.values[spec.name]
    if value is None:
        return "empty: null"
    if dynamic:
        return f"empty: {shown(text_of(spec, spec.default))}, now {shown(text_of(spec, value))}"
    if spec.type == "string":
        return ""
    return f"empty: {shown(text_of(spec, value))}"


def _choices(spec: ParameterSpec, secrets: Sequence[str], value: str, *, may_be_empty: bool) -> Iterable[Choice]:
    if spec.type == "boolean":
        words = ["true", "false"]
    elif spec.type == "secret":
        words = list(secrets)
    else:
        words = [text_of(spec, choice) for choice in spec.values]
    if may_be_empty or not value:
        yield Choice("", "–" if may_be_empty else "choose…")
    for word in words:
        yield Choice(word, word)
    if value and value not in words:
        yield Choice(value, f"{value} (there is none of this name)" if spec.type == "secret" else value)


def _is_dynamic(spec: ParameterSpec) -> bool:
    return spec.has_default and "${" in json.dumps(spec.default)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")
