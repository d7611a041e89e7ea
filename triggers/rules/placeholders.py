"""Parameters of a rule with an event's values in them: one pass, types kept, a limit on what they may become.

What a value says is never looked at again, so an event cannot smuggle a placeholder in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from orchestrator.expressions.placeholders import RULE, Placeholder, as_text, parse_template, texts_in, walk
from orchestrator.expressions.problems import MissingReference

#: Bytes of rendered parameters, as JSON.
LARGEST: Final = 64 * 1024
#: Stands for the run's id, which nobody knows before the run is made.
RUN_ID_LATER: Final = "(the run's id)"


class TooLarge(Exception):
    """The rendered parameters are larger than LARGEST."""


class Facts(Protocol):
    """What placeholders read of an event."""

    @property
    def event(self) -> Mapping[str, Any]:
        """The event as `${event.…}` of a job's task reads it."""
        ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def event_ids(self) -> tuple[int, ...]: ...


class Template:
    """Parameters, parsed once. Immutable and shared."""

    def __init__(self, parameters: Mapping[str, Any], *, rule_id: str) -> None:
        self._parameters = parameters
        self._rule_id = rule_id
        self.is_fixed = not any(True for _ in texts_in(parameters))

    @property
    def reads_headers(self) -> bool:
        return any(
            not isinstance(part, str) and part.root == "headers"
            for _, text in texts_in(self._parameters)
            for part in parse_template(text, RULE)
        )

    def render(self, facts: Facts) -> Mapping[str, Any]:
        """Return the parameters for an event. The same object each time if nothing in them depends on it.

        Raises MissingReference for a value that is not there and has no default, TooLarge.
        """
        if self.is_fixed:
            return self._parameters
        rendering = _Rendering(facts, self._rule_id)
        return {name: rendering.of(value, name) for name, value in self._parameters.items()}


class _Rendering:
    def __init__(self, facts: Facts, rule_id: str) -> None:
        self._facts = facts
        self._rule_id = rule_id
        self._left = LARGEST

    def of(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            if "${" in value:
                return self._text(value, where)
            self._spend(len(value))
        elif isinstance(value, Mapping):
            return {key: self.of(inner, f"{where}.{key}") for key, inner in value.items()}
        elif isinstance(value, (list, tuple)):
            return [self.of(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
        return value

    def _text(self, text: str, where: str) -> Any:
        parts = parse_template(text, RULE)
        try:
            if len(parts) == 1 and not isinstance(parts[0], str):
                value = self._value(parts[0])
                self._spend(len(value) if isinstance(value, str) else len(orjson.dumps(value, default=str)))
                return value
            words = ""
            for part in parts:
                word = part if isinstance(part, str) else as_text(part, self._value(part))
                self._spend(len(word))
                words += word
            return words
        except MissingReference as missing:
            missing.where = where
            raise
        except TooLarge:
            raise TooLarge(where) from None

    def _value(self, placeholder: Placeholder) -> Any:
        try:
            return self._look_up(placeholder)
        except MissingReference:
            if placeholder.default is None:
                raise
            return placeholder.default

    def _look_up(self, placeholder: Placeholder) -> Any:
        root = placeholder.root
        if root == "payload":
            return walk(self._facts.event["payload"], placeholder)
        if root == "metadata":
            return walk(self._facts.event["metadata"], placeholder)
        if root == "headers":
            return _header(self._facts.headers, placeholder)
        if root == "ruleId":
            return self._rule_id
        if root == "eventIds":
            return list(self._facts.event_ids)
        if root == "runId":
            return RUN_ID_LATER
        value = _NAMES[root](self._facts.event)
        if value is None:
            raise MissingReference(placeholder.reference)
        return value

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge


def _header(headers: Mapping[str, str], placeholder: Placeholder) -> str:
    value = headers.get(placeholder.path[0].lower()) if len(placeholder.path) == 1 else None
    if value is None:
        raise MissingReference(placeholder.reference)
    return value


def _field(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda event: event.get(name)


_NAMES: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "eventId": _field("messageId"),
    "eventType": _field("eventType"),
    "timestamp": _field("timestamp"),
    "source": _field("source"),
    "destination": _field("destination"),
    "priority": _field("priority"),
    "traceId": lambda event: event["metadata"].get("traceId"),
}
