"""Placeholders in texts of a definition: `${params.region}`, `${biz_date-7d|%Y%m%d}`, `${results.count.n:-0}`.

One pass: what a placeholder is replaced by is never looked at again, so no value can smuggle one in. A placeholder
that is the whole text keeps its value's type; inside a longer text a value becomes text. `$${` is a literal `${`.

Where a text stands decides which names it may use: that is its grammar. A path goes on by `.name`, `[0]` or, for a key
of any characters, `['any key']`, in which `\\'` and `\\\\` stand for themselves.
"""

from __future__ import annotations

import json
import re
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from orchestrator.expressions.problems import InvalidPlaceholder, MissingReference

EXPECTED = (
    "params.<name>, results.<task>.<path>, event.<path>, run.id, run.logical_date, biz_date, execution_date or env"
)
DATES = ("biz_date", "execution_date")


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which placeholders a text may have: `names` that stand alone, and `roots` that a path begins with."""

    names: frozenset[str]
    roots: frozenset[str]
    #: What is known, for the words of a problem.
    expected: str
    #: `biz_date` and `execution_date`, with offsets and formats.
    dates: bool = False


#: In definitions of jobs.
JOB = Grammar(
    frozenset({*DATES, "env", "run.id", "run.logical_date"}),
    frozenset({"params", "results", "event"}),
    EXPECTED,
    dates=True,
)
#: In parameters of trigger rules.
RULE = Grammar(
    frozenset(
        {"eventId", "eventIds", "eventType", "timestamp", "source", "destination", "priority", "traceId", "ruleId"}
        | {"runId", "payload", "metadata"}
    ),
    frozenset({"payload", "metadata", "headers"}),
    "payload.<path>, metadata.<path>, headers.<name>, eventId, eventType, timestamp, source, destination, priority,"
    " traceId, ruleId or runId",
)

_DATED = re.compile(
    r"(?P<name>biz_date|execution_date)(?P<offset>(?:[+-]\d{1,6}[dwMy])*)(?:\|(?P<format>.*))?", re.DOTALL
)
_STEP = re.compile(r"([+-]\d+)([dwMy])")
#: A name and its path; a quoted key may hold any character, a `}` too.
_QUOTED = r"\['((?:[^'\\]|\\['\\])*)'\]"
_PATH = re.compile(rf"[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+|\[\d{{1,9}}\]|{_QUOTED})*")
_STEPS = re.compile(rf"\.([A-Za-z0-9_-]+)|\[(\d{{1,9}})\]|{_QUOTED}")
#: Where a null inside a longer text is no text: senders write null for "none".
_OF_EVENT = frozenset({"event", *RULE.roots})
#: Directives whose meaning is the same on every system and in every locale.
_DIRECTIVES = frozenset("YymdjuGV%")
#: In a text that is never a template, only what looks like one of ours is a mistake; other `${X}` are the shell's.
_OURS = re.compile(
    r"(?<!\$)\$\{(?:params\.|results\.|event\.|run\.(?:id|logical_date)\b|(?:biz_date|execution_date|env)(?![A-Za-z0-9_]))"
)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One parsed placeholder. `root` is what its path begins with, such as `params`, or a whole name such as `run.id`."""

    reference: str
    root: str
    path: tuple[str, ...] = ()
    offset: tuple[tuple[int, str], ...] = ()
    format: str | None = None
    default: str | None = None


Template = tuple[str | Placeholder, ...]


@dataclass(frozen=True, slots=True)
class PlaceholderContext:
    """The values that placeholders may take. What is None or not in a mapping is missing."""

    params: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] | None = None
    run_id: int | None = None
    logical_date: str | None = None
    execution_date: date | None = None
    env: str | None = None


@lru_cache(maxsize=8192)
def parse_template(text: str, grammar: Grammar = JOB) -> Template:
    """Split `text` into literal parts and placeholders; raises InvalidPlaceholder at the first that is none."""
    parts: list[str | Placeholder] = []
    literal = ""
    start = 0
    while (at := text.find("${", start)) >= 0:
        if at > start and text[at - 1] == "$":
            literal += text[start : at - 1] + "${"
            start = at + 2
            continue
        literal += text[start:at]
        path = _PATH.match(text, at + 2)
        end = text.find("}", at if path is None else path.end())
        if end < 0:
            raise InvalidPlaceholder(text[at : at + 40], "a placeholder is not closed by `}`", at)
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(_placeholder(text[at + 2 : end], at, grammar))
        start = end + 1
    literal += text[start:]
    if literal or not parts:
        parts.append(literal)
    return tuple(parts)


def placeholders_in(
    value: Any, path: tuple[str | int, ...] = (), grammar: Grammar = JOB
) -> Iterator[tuple[tuple[str | int, ...], Placeholder]]:
    """Yield each placeholder of a nested JSON value with the path to its text; raises InvalidPlaceholder."""
    for where, text in texts_in(value, path):
        for part in parse_template(text, grammar):
            if isinstance(part, Placeholder):
                yield where, part


def references(value: Any) -> list[str]:
    """Return what the placeholders of a nested JSON value name, sorted, each once."""
    return sorted({placeholder.reference for _, placeholder in placeholders_in(value)})


def texts_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each text of a nested JSON value that has a `${`, with its path. Keys are no templates."""
    if isinstance(value, str):
        if "${" in value:
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts_in(item, (*path, index))


def is_whole(text: str) -> bool:
    """Whether the text is one placeholder and nothing else, so that rendering may change its type."""
    if not text.startswith("${"):
        return False
    try:
        parts = parse_template(text)
    except InvalidPlaceholder:
        return False
    return len(parts) == 1 and isinstance(parts[0], Placeholder)


def ours_in_fixed_text(text: str) -> str | None:
    """Return the first placeholder of ours in a text that is never a template, or None."""
    found = _OURS.search(text)
    if found is None:
        return None
    end = text.find("}", found.start())
    return text[found.start() : end + 1 if end >= 0 else found.end()]


def render(value: Any, context: PlaceholderContext) -> Any:
    """Return the JSON value with its placeholders replaced.

    Raises MissingReference for a value that is not there and has no default, InvalidPlaceholder for a bad text.
    """
    if isinstance(value, str):
        return _render_text(value, context) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: render(item, context) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [render(item, context) for item in value]
    return value


def _render_text(text: str, context: PlaceholderContext) -> Any:
    parts = parse_template(text)
    if len(parts) == 1:
        return parts[0] if isinstance(parts[0], str) else _value_of(parts[0], context)
    return "".join(part if isinstance(part, str) else as_text(part, _value_of(part, context)) for part in parts)


def _value_of(placeholder: Placeholder, context: PlaceholderContext) -> Any:
    try:
        return _look_up(placeholder, context)
    except MissingReference:
        if placeholder.default is None:
            raise
        return placeholder.default


def _look_up(placeholder: Placeholder, context: PlaceholderContext) -> Any:
    match placeholder.root:
        case "params":
            return walk(context.params, placeholder)
        case "results":
            return walk(context.results, placeholder)
        case "event":
            return walk(context.event, placeholder)
        case "run.id":
            value: Any = context.run_id
        case "run.logical_date":
            value = context.logical_date
        case "env":
            value = context.env
        case _:
            value = context.execution_date and _dated(placeholder, context.execution_date)
    if value is None:
        raise MissingReference(placeholder.reference)
    return value


def walk(value: Any, placeholder: Placeholder) -> Any:
    """Follow the placeholder's path from the value of its root. Raises MissingReference, which says how far it came."""
    walked = placeholder.root
    for segment in placeholder.path:
        if isinstance(value, Mapping) and segment in value:
            value = value[segment]
        elif (
            isinstance(value, (list, tuple)) and segment.isdecimal() and len(segment) < 10 and int(segment) < len(value)
        ):
            value = value[int(segment)]
        else:
            raise MissingReference(placeholder.reference, f"{walked} has no {segment!r}")
        walked += f".{segment}"
    return value


def as_text(placeholder: Placeholder, value: Any) -> str:
    """Return what a value becomes inside a longer text. Raises MissingReference for one that is nested too deeply."""
    if isinstance(value, str):
        return value
    if value is None and placeholder.root in _OF_EVENT:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise MissingReference(placeholder.reference, "the value is nested too deeply to be written as text") from None


def _placeholder(inner: str, column: int, grammar: Grammar) -> Placeholder:
    path = _PATH.match(inner)
    # A quoted key may hold a `:-` of its own.
    head = inner[: path.end()] if path is not None else ""
    rest, has_default, default = inner[len(head) :].partition(":-")
    name = head + rest
    fallback = default if has_default else None
    dated = _DATED.fullmatch(name) if grammar.dates else None
    if dated:
        pattern = dated["format"]
        if pattern is not None:
            _check_format(pattern, inner, column)
        return Placeholder(
            reference=dated["name"],
            root=dated["name"],
            offset=tuple((int(count), unit) for count, unit in _STEP.findall(dated["offset"])),
            format=pattern,
            default=fallback,
        )
    if name in grammar.names:
        return Placeholder(name, name, default=fallback)
    root = re.split(r"[.\[]", name, maxsplit=1)[0]
    if root in grammar.roots and not rest and len(head) > len(root):
        return Placeholder(name, root, _steps(head[len(root) :]), default=fallback)
    if grammar.dates and name.startswith(DATES):
        message = "offsets are like -7d, +2w, +1M or -1y, a format like |%Y%m%d"
    else:
        message = "no such value; write $${ for a literal ${"
    raise InvalidPlaceholder(inner, message, column)


def _steps(path: str) -> tuple[str, ...]:
    return tuple(step[1] or step[2] or re.sub(r"\\(.)", r"\1", step[3] or "") for step in _STEPS.finditer(path))


def _check_format(pattern: str, inner: str, column: int) -> None:
    directives = re.findall(r"%(.?)", pattern, re.DOTALL)
    unknown = [directive for directive in directives if directive not in _DIRECTIVES]
    if not pattern or unknown:
        allowed = " ".join(f"%{directive}" for directive in sorted(_DIRECTIVES))
        raise InvalidPlaceholder(inner, f"a date format uses {allowed}", column)


def _dated(placeholder: Placeholder, execution_date: date) -> str:
    try:
        day = execution_date - timedelta(days=1) if placeholder.root == "biz_date" else execution_date
        for count, unit in placeholder.offset:
            day = _shifted(day, count, unit)
    except (OverflowError, ValueError):
        raise MissingReference(placeholder.reference, "the date is outside the years 1 to 9999") from None
    if placeholder.format is None:
        return day.isoformat()
    return re.sub(r"%(.)", lambda found: _directive(day, found[1]), placeholder.format)


def _shifted(day: date, count: int, unit: str) -> date:
    if unit in "dw":
        return day + timedelta(days=count * (7 if unit == "w" else 1))
    months = day.year * 12 + day.month - 1 + count * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    # The 31st of a month that has none is its last day, as in every calendar program.
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _directive(day: date, directive: str) -> str:
    # Not strftime: on Linux its %Y does not pad, and its widths allocate what a text asks for.
    iso_year, iso_week, iso_day = day.isocalendar()
    return {
        "Y": f"{day.year:04}",
        "y": f"{day.year % 100:02}",
        "m": f"{day.month:02}",
        "d": f"{day.day:02}",
        "j": f"{day.timetuple().tm_yday:03}",
        "G": f"{iso_year:04}",
        "V": f"{iso_week:02}",
        "u": str(iso_day),
        "%": "%",
    }[directive]
