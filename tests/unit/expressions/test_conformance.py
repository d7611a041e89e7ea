"""What we rely on in CEL. Run it against any library that shall replace the one behind `Condition`."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.expressions.environment import Environment
from orchestrator.expressions.program import NotEvaluated, compile_condition

EVENT = {
    "payload": {"amount": 1500, "rate": 2.5, "status": "SUCCESS", "items": [1, 2, 3], "nothing": None, "name": "北京"},
    "metadata": {"version": "1.0"},
}
ENVIRONMENT = Environment(maps=("payload", "metadata"), values=("timestamp",))


def evaluate(source: str) -> Any:
    return compile_condition(source, ENVIRONMENT).evaluate({**EVENT, "timestamp": "2026-12-01T08:00:00Z"})


@pytest.mark.parametrize(
    "source",
    [
        'payload.amount > 1000 && metadata.version == "1.0"',
        "payload.rate > 2",
        "payload.amount > 4.5",
        "payload.status == 'SUCCESS' && payload.status != 5",
        "payload.nothing == null",
        "has(payload.amount) && !has(payload.missing)",
        "payload.?missing.orValue(0) == 0",
        "payload.missing > 5 || true",
        "!(payload.missing > 5 && false)",
        "payload.items.exists(i, i == 3) && payload.items.all(i, i > 0)",
        "payload.items.filter(i, i > 1).size() == 2",
        "size(payload.items) == 3 && 2 in payload.items",
        "payload.status.startsWith('SUC') && payload.status.matches('^S.*S$')",
        "payload.status.lowerAscii() == 'success'",
        "timestamp(timestamp) > timestamp('2026-11-30T00:00:00Z')",
        "timestamp(timestamp) - timestamp('2026-12-01T07:00:00Z') == duration('1h')",
        "math.greatest(1, 2) == 2",
        "num('5.5') > 5 && num(payload.amount) == 1500",
        "payload.name == '北京'",
        "payload.amount == 1500.0",
        "true ? true : payload.missing",
        "(" * 20 + "true" + ")" * 20,
        " && ".join(["true"] * 500),
    ],
)
def test_it_is_true(source: str):
    assert evaluate(source) is True


@pytest.mark.parametrize("source", ["payload.amount < 0", "payload.status == 5", "payload.items == []", "!true"])
def test_it_is_false(source: str):
    assert evaluate(source) is False


@pytest.mark.parametrize(
    "source",
    [
        "payload.missing > 5",
        "payload.missing > 5 && true",
        "payload.nothing > 5",
        "payload.status > 5",
        "payload.amount + 1.5 > 2.0",
        "payload.items[7] == 1",
        "payload.status",
    ],
)
def test_it_has_no_value(source: str):
    assert isinstance(evaluate(source), NotEvaluated)


def test_a_regular_expression_cannot_blow_up():
    condition = compile_condition("payload.text.matches('^(a+)+$')", ENVIRONMENT)

    assert condition.evaluate({"payload": {"text": "a" * 50_000 + "b"}}) is False
