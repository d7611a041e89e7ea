"""Rules and events for tests of the pure part: the interesting value visible in the test, the rest from here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from triggers.envelope import Envelope
from triggers.rules.decide import Activation
from triggers.rules.rule import CompiledRule, compile_rule
from triggers.rules.spec import RuleProblem, RuleSpec, read_rule

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
TENANT = 1


def form(**fields: Any) -> dict[str, Any]:
    """Return a rule that starts the job `sync` on each `order.created`, with other fields as given."""
    return {"ruleId": "a-rule", "eventType": "order.created", "taskName": "sync", **fields}


def spec(**fields: Any) -> RuleSpec:
    read = read_rule(form(**fields))
    assert isinstance(read, RuleSpec), [str(problem) for problem in read]
    return read


def problems(**fields: Any) -> tuple[RuleProblem, ...]:
    read = read_rule(form(**fields))
    assert not isinstance(read, RuleSpec), "the rule is valid"
    return read


def rule(number: int = 1, *, tenant: int = TENANT, **fields: Any) -> CompiledRule:
    return compile_rule(rule_id=number, version_id=number, number=1, tenant_id=tenant, spec=spec(**fields))


def envelope(payload: Mapping[str, Any] | None = None, **fields: Any) -> Envelope:
    given: dict[str, Any] = {
        "message_id": "msg-1",
        "event_type": "order.created",
        "timestamp": datetime(2027, 3, 1, 11, 59, 30, tzinfo=UTC),
        "source": "order-service",
        "payload": payload if payload is not None else {"orderId": "o-1", "amount": 1500},
        "metadata": {"traceId": "trace-1", "version": "1.0"},
        **fields,
    }
    return Envelope(**given)


def activation(
    payload: Mapping[str, Any] | None = None,
    *,
    channel: str = "kafka:business-events",
    headers: Mapping[str, str] | None = None,
    ordering_key: str = "",
    now: datetime = NOON,
    **fields: Any,
) -> Activation:
    return Activation(envelope(payload, **fields), channel, headers or {}, ordering_key, now)
