"""Conditions that need no interpreter: fields of the event compared with constants, joined by `&&`.

Most conditions are such, and CEL takes ten times as long for them, most of it to take the event over. Only what is
certain is answered here, as CEL would: a field that is missing or of another type than its constant is CEL's to judge.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from triggers.envelope import Envelope

#: True, False, or None: ask CEL.
Plain = Callable[[Envelope], bool | None]

#: Beyond these, integers and doubles are no longer the same numbers.
_EXACT: Final = 2**53
_TEXTS: Final[Mapping[str, Callable[[Envelope], str]]] = {
    "eventType": operator.attrgetter("event_type"),
    "source": operator.attrgetter("source"),
    "destination": operator.attrgetter("destination"),
    "priority": operator.attrgetter("priority"),
}
_MAPS: Final[Mapping[str, Callable[[Envelope], Mapping[str, Any]]]] = {
    "payload": operator.attrgetter("payload"),
    "metadata": operator.attrgetter("metadata"),
}
_COMPARES: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TERM: Final = re.compile(
    r"""\s*(?P<root>[A-Za-z]+)(?P<path>(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
        \s*(?P<compare>==|!=|<=|>=|<|>)
        \s*(?:(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?)
             |'(?P<single>[^'"\\\r\n]*)'
             |"(?P<double>[^'"\\\r\n]*)")\s*""",
    re.VERBOSE | re.ASCII,
)


def plain_condition(source: str) -> Plain | None:
    """Return the condition without CEL, None if it is more than that. `source` compiles as CEL."""
    terms: list[Plain] = []
    at = 0
    while True:
        found = _TERM.match(source, at)
        if found is None or (term := _term(found)) is None:
            return None
        terms.append(term)
        at = found.end()
        if at == len(source):
            break
        if not source.startswith("&&", at):
            return None
        at += 2
    return terms[0] if len(terms) == 1 else _all(tuple(terms))


def _term(found: re.Match[str]) -> Plain | None:
    root, path = found["root"], tuple(found["path"].split(".")[1:])
    compare = _COMPARES[found["compare"]]
    text = found["single"] if found["single"] is not None else found["double"]
    if text is None:
        if root not in _MAPS or not path:
            return None
        number = found["number"]
        return _number_term(_MAPS[root], path[0], path[1:], compare, float(number) if "." in number else int(number))
    if found["compare"] not in ("==", "!="):
        return None
    if root in _TEXTS and not path:
        read = _TEXTS[root]
        return lambda envelope: compare(read(envelope), text)
    if root in _MAPS and path:
        return _text_term(_MAPS[root], path[0], path[1:], compare, text)
    return None


def _number_term(
    fields: Callable[[Envelope], Mapping[str, Any]],
    first: str,
    below: tuple[str, ...],
    compare: Callable[[Any, Any], bool],
    number: float,
) -> Plain:
    def holds(envelope: Envelope) -> bool | None:
        value = fields(envelope).get(first)
        for name in below:
            if value.__class__ is not dict:
                return None
            value = value.get(name)
        if (value.__class__ is int or value.__class__ is float) and -_EXACT < value < _EXACT:
            return compare(value, number)
        return None

    return holds


def _text_term(
    fields: Callable[[Envelope], Mapping[str, Any]],
    first: str,
    below: tuple[str, ...],
    compare: Callable[[Any, Any], bool],
    text: str,
) -> Plain:
    def holds(envelope: Envelope) -> bool | None:
        value = fields(envelope).get(first)
        for name in below:
            if value.__class__ is not dict:
                return None
            value = value.get(name)
        return compare(value, text) if value.__class__ is str else None

    return holds


def _all(terms: tuple[Plain, ...]) -> Plain:
    def holds(envelope: Envelope) -> bool | None:
        unknown = False
        for term in terms:
            answer = term(envelope)
            if answer is False:
                # Whatever the others are, errors too.
                return False
            unknown = unknown or answer is None
        return None if unknown else True

    return holds
