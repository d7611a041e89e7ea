"""One rule on one event: it fires, it does not, or it could not be evaluated. The last is never taken for the second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.problems import InvalidExpression, InvalidPlaceholder, MissingReference
from orchestrator.expressions.program import DATA_DEPTH, NotEvaluated, Outcome, too_deep
from triggers.envelope import Envelope
from triggers.rules.placeholders import LARGEST, TooLarge
from triggers.rules.rule import CompiledRule, Programs

#: Characters of a reason, as its column has them.
_LONGEST: Final = 500


class Activation:
    """An event as rules see it, made once and read by each of its candidates. Not shared between threads."""

    __slots__ = (
        "_event", "_facts", "_names", "_too_deep", "channel", "envelope", "event_ids", "headers", "now", "ordering_key", "shallow",
    )  # fmt: skip

    def __init__(
        self,
        envelope: Envelope,
        channel: str,
        headers: Mapping[str, str],
        ordering_key: str,
        now: datetime,
        event_ids: tuple[int, ...] = (),
        *,
        shallow: bool = False,
    ) -> None:
        """`shallow`: the event was read by `envelope.read`, which lets none through that nests too deeply."""
        self.envelope = envelope
        #: Known not to nest too deeply for expressions.
        self.shallow = shallow
        self.channel = channel
        #: Lower-case names.
        self.headers = headers
        #: What the transport orders by, empty if nothing.
        self.ordering_key = ordering_key
        self.now = now
        #: Ids of the events of a group that is released.
        self.event_ids = event_ids
        self._event: dict[str, Any] | None = None
        self._facts: Any = None
        self._names: frozenset[str] = frozenset()
        self._too_deep = False

    @property
    def event(self) -> dict[str, Any]:
        """The event as a run keeps it and as `${event.…}` reads it. A field that the event lacks is left out."""
        event = self._event
        if event is None:
            envelope = self.envelope
            event = {
                "messageId": envelope.message_id,
                "eventType": envelope.event_type,
                "timestamp": moment_text(envelope.timestamp),
                "source": envelope.source,
                "payload": envelope.payload,
                "metadata": envelope.metadata,
            }
            if envelope.destination:
                event["destination"] = envelope.destination
            if envelope.priority:
                event["priority"] = envelope.priority
            if self.event_ids:
                event["events"] = list(self.event_ids)
            self._event = event
        return event

    @property
    def facts(self) -> Any:
        """All variables of expressions, None if the event nests too deeply for them."""
        return self.facts_of(_ALL_NAMES)

    def facts_of(self, names: frozenset[str]) -> Any:
        """Return at least the variables named, None if the event nests too deeply for them.

        Handing over a variable costs half as much as evaluating a condition: what no expression names is left out.
        """
        if self._too_deep:
            return None
        if self._facts is None or not names <= self._names:
            # The look costs more than all else that a rule costs.
            if not self.shallow:
                self._too_deep = too_deep(self.event)
                if self._too_deep:
                    return None
                self.shallow = True
            self._names |= names
            self._facts = rule_environment().facts({name: _VARIABLES[name](self) for name in self._names})
        return self._facts


_VARIABLES: Final[Mapping[str, Callable[[Activation], Any]]] = {
    "event": lambda it: it.event,
    "payload": lambda it: it.envelope.payload,
    "metadata": lambda it: it.envelope.metadata,
    "headers": lambda it: it.headers,
    "eventType": lambda it: it.envelope.event_type,
    "source": lambda it: it.envelope.source,
    "destination": lambda it: it.envelope.destination,
    "priority": lambda it: it.envelope.priority,
    "channel": lambda it: it.channel,
    "timestamp": lambda it: it.envelope.timestamp,
    "now": lambda it: it.now,
}
_ALL_NAMES: Final = frozenset(_VARIABLES)


class Fires(NamedTuple):
    """The condition holds. What the run is given, and the keys by which the rule's stages count."""

    #: Of the run; none for a rule that carries its task, whose placeholders read the event.
    parameters: Mapping[str, Any]
    #: What the run keeps as its event.
    event: Mapping[str, Any]
    #: The parameters with the event's values, whoever puts them in.
    rendered: Mapping[str, Any]
    dedupe_key_hash: UUID | None = None
    throttle_key_hash: UUID | None = None
    debounce_key_hash: UUID | None = None
    batch_key_hash: UUID | None = None
    #: By which admission counts the rule's runs; None: it does not.
    admission_hash: UUID | None = None

    def key_hash(self, stage: str) -> UUID | None:
        """Return the key of a stage that keeps something by key; None if the rule has no such stage."""
        match stage:
            case "dedupe":
                return self.dedupe_key_hash
            case "throttle":
                return self.throttle_key_hash
            case "debounce":
                return self.debounce_key_hash
            case "batch":
                return self.batch_key_hash
        return None


@dataclass(frozen=True, slots=True)
class NotFired:
    """The condition is false."""


@dataclass(frozen=True, slots=True)
class EvaluationError:
    """Condition, key or parameters have no value. `position` is the field of the rule, such as `dedupe.key`."""

    #: Begins with `condition_error`, `key_error`, `parameter_error`, `over_budget`, `too_deep` or `rule_broken`.
    reason: str
    position: str

    @property
    def over_budget(self) -> bool:
        """Whether it cost more than an expression may: a rule that often does is put into quarantine."""
        return self.reason.startswith("over_budget")


Evaluated = Fires | NotFired | EvaluationError

NOT_FIRED: Final = NotFired()


def evaluate(rule: CompiledRule, activation: Activation) -> Evaluated:
    """Return what the rule makes of the event, before its stages. Never raises."""
    try:
        programs = rule.programs
        if programs.condition is not None:
            plain = programs.plain
            outcome: Outcome | None = plain(activation.envelope) if plain is not None and activation.shallow else None
            if outcome is None:
                facts = activation.facts_of(programs.names)
                if facts is None:
                    return _too_deep("condition")
                outcome = programs.condition.evaluate_on(facts)
            if outcome is False:
                return NOT_FIRED
            if outcome is not True:
                return _no_value(outcome, "condition_error", "condition")
        return _fires(rule, programs, activation)
    except Exception as error:
        return _broken(error)


def prepare(rule: CompiledRule, activation: Activation) -> Fires | EvaluationError:
    """Return what a run of the rule would be given now, its condition taken for true. Never raises.

    For what was held: the condition held when the event came, and is not asked again.
    """
    try:
        return _fires(rule, rule.programs, activation)
    except Exception as error:
        return _broken(error)


def _fires(rule: CompiledRule, programs: Programs, activation: Activation) -> Fires | EvaluationError:
    keys: dict[str, UUID] = {}
    for stage, quantity in programs.keys:
        if quantity is not None:
            facts = activation.facts_of(programs.names)
            if facts is None:
                return _too_deep(f"{stage}.key")
            value = quantity.evaluate_on(facts)
            if isinstance(value, NotEvaluated):
                return _no_value(value, "key_error", f"{stage}.key")
        else:
            value = activation.ordering_key if stage == "concurrency" else ""
        keys["admission_hash" if stage == "concurrency" else f"{stage}_key_hash"] = key_hash(rule.rule_id, stage, value)
    try:
        rendered = programs.template.render(activation)
    except MissingReference as missing:
        return EvaluationError(_reason("parameter_error", str(missing)), f"parameters.{missing.where}")
    except TooLarge as large:
        return EvaluationError(
            _reason("parameter_error", f"the parameters are larger than {LARGEST} bytes"), f"parameters.{large}"
        )
    event: Mapping[str, Any] = activation.event
    if programs.own_task:
        if programs.reads_headers:
            event = {**event, "headers": dict(activation.headers)}
        return Fires({}, event, rendered, **keys)
    return Fires(rendered, event, rendered, **keys)


def key_hash(rule_id: int, stage: str, value: Any) -> UUID:
    """Return BLAKE2b-128 of the value of a key: equal for equal values, whatever wrote them."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    words = orjson.dumps(
        value, default=_shown, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
    )
    return UUID(bytes=blake2b(b"%d\0%s\0%s" % (rule_id, stage.encode(), words), digest_size=16).digest())


def moment_text(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, with a fraction only if it has one."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def with_events(activation: Activation, event_ids: tuple[int, ...]) -> Activation:
    """Return the last event of a group as the group's, whose ids are `event_ids`."""
    return Activation(
        activation.envelope, activation.channel, activation.headers, activation.ordering_key, activation.now, event_ids
    )


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, (bytes, bytearray)) else str(value)


def _no_value(outcome: NotEvaluated, word: str, position: str) -> EvaluationError:
    return EvaluationError(_reason("over_budget" if outcome.over_budget else word, outcome.reason), position)


def _too_deep(position: str) -> EvaluationError:
    return EvaluationError(f"too_deep: the event is nested deeper than {DATA_DEPTH} levels", position)


def _broken(error: Exception) -> EvaluationError:
    position = "condition" if isinstance(error, InvalidExpression) else "parameters"
    kind = "" if isinstance(error, (InvalidExpression, InvalidPlaceholder)) else f"{type(error).__name__}: "
    return EvaluationError(_reason("rule_broken", f"{kind}{error}"), position)


def _reason(word: str, words: str) -> str:
    text = f"{word}: {words}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
