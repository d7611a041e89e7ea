"""What a rule would do with an event, step by step: the answers are the engine's own functions', only told aloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from triggers.rules.decide import Activation, EvaluationError, NotFired, evaluate
from triggers.rules.match import RuleIndex, matches_type
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import Fire, Hold, State, StateKey, apply_stages
from triggers.rules.terms import STAGES


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `passed` is None where it could not be evaluated."""

    #: match, condition, keys, parameters, dedupe, throttle, debounce, batch, delay or window.
    name: str
    passed: bool | None
    detail: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen. `outcome` is not_matched, not_fired, error, suppressed, held or fired."""

    outcome: str
    reason: str
    steps: tuple[Step, ...]
    #: Of the run, with the event's values in them.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    release_at: datetime | None = None


def explain(
    rule: CompiledRule, activation: Activation, *, states: Mapping[StateKey, State] | None = None
) -> Explanation:
    """Return what the rule would do with the event, whether it is enabled or not. Changes nothing.

    `states` are those of its stages as they are now; without them the event is the first of its keys.
    """
    steps = [_match(rule, activation)]
    if not steps[0].passed:
        return Explanation("not_matched", steps[0].detail, tuple(steps))
    evaluated = evaluate(rule, activation)
    if isinstance(evaluated, NotFired):
        return _ended(
            "not_fired", [*steps, Step("condition", False, rule.spec.condition, False)], "the condition is false"
        )
    if isinstance(evaluated, EvaluationError):
        at_condition = evaluated.position == "condition"
        if not at_condition:
            steps.append(_condition_held(rule))
        name = "condition" if at_condition else evaluated.position.partition(".")[0]
        steps.append(Step(name, None, evaluated.reason, {"position": evaluated.position}))
        return _ended("error", steps, evaluated.reason)
    steps += [_condition_held(rule), Step("parameters", True, "the run's parameters", evaluated.rendered)]
    decision = apply_stages(rule, evaluated, states or {}, activation.now).outcome
    steps += _stages(rule, decision)
    if isinstance(decision, Fire):
        return _ended("fired", steps, "", parameters=evaluated.rendered)
    if isinstance(decision, Hold):
        return _ended("held", steps, decision.reason, parameters=evaluated.rendered, release_at=decision.release_at)
    return _ended("suppressed", steps, decision.reason, parameters=evaluated.rendered)


def _match(rule: CompiledRule, activation: Activation) -> Step:
    envelope, channel, headers = activation.envelope, activation.channel, activation.headers
    found = RuleIndex([rule]).candidates(rule.tenant_id, envelope, channel, headers)
    if found:
        return Step("match", True, f"{envelope.event_type} is of {', '.join(rule.patterns)}")
    if not any(matches_type(pattern, envelope.event_type) for pattern in rule.patterns):
        return Step("match", False, f"eventType: {envelope.event_type!r} is none of {', '.join(rule.patterns)}")
    if rule.sources and envelope.source not in rule.sources:
        return Step("match", False, f"source: {envelope.source!r} is none of {', '.join(sorted(rule.sources))}")
    if rule.channels and channel not in rule.channels:
        return Step("match", False, f"channel: {channel!r} is none of {', '.join(sorted(rule.channels))}")
    name, value = next((name, value) for name, value in rule.headers if headers.get(name) != value)
    return Step("match", False, f"headers: {name} is {headers.get(name)!r}, not {value!r}")


def _condition_held(rule: CompiledRule) -> Step:
    return Step("condition", True, rule.spec.condition or "no condition: always", True)


def _stages(rule: CompiledRule, decision: Any) -> list[Step]:
    """Name the stages of the rule that let the event pass, and the one that did not."""
    steps: list[Step] = []
    stopped_by = decision.stage if isinstance(decision, Hold) else None
    if not isinstance(decision, (Fire, Hold)):
        stopped_by = {"deduplicated": "dedupe", "throttled": "throttle", "outside_window": "window"}[
            decision.reason.partition(":")[0]
        ]
    for stage in STAGES:
        if getattr(rule.spec, stage) is None:
            continue
        if stage == stopped_by:
            return [*steps, Step(stage, False, decision.reason)]
        steps.append(Step(stage, True, "lets it pass"))
    return steps


def _ended(outcome: str, steps: list[Step], reason: str, **more: Any) -> Explanation:
    return Explanation(outcome, reason, tuple(steps), **more)
