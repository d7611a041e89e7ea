"""Milliseconds of 1,000 rules on one event, and microseconds of an event that none of 1,000 rules asks for; also
microseconds of an event that 50 of 10,000 rules ask for, and milliseconds until a new set of 10,000 is in use.

Everything that a listener does between a decoded message and its transaction: index, activation, condition and, for
every tenth rule, the parameters of a run. No server is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, Required
from tests.support.rules import TENANT, envelope, rule
from triggers.rules.decide import Activation, Fires, evaluate
from triggers.rules.match import RuleIndex

RULES = 1000
#: Events of each repeat; the figure of a repeat is their median.
EVENTS = 200
MISSES = 5000
MANY = 10_000
OF_MANY = 50
CONDITIONS = (
    "payload.amount > {n}000000",
    "payload.status == 'SUCCESS' && payload.amount > {n}000000",
    "has(payload.coupon) && payload.coupon.startsWith('VIP{n}')",
    "payload.items.exists(i, i.qty > 1{n}) && metadata.version in ['1.0', '1.1']",
    "now - timestamp > duration('{n}h')",
)
PAYLOAD: dict[str, Any] = {
    "orderId": "order-12345", "customerId": "customer-67890", "amount": 999.99, "currency": "CNY", "status": "SUCCESS",
    "coupon": "VIP", "items": [{"sku": f"sku-{n}", "qty": n} for n in range(6)], "note": "x" * 120,
}  # fmt: skip


def measure(bench: Bench) -> Figures:
    rules = [
        rule(
            n,
            eventType=("order.created", "order.*", "order.#")[n % 3],
            condition="" if n % 10 == 0 else CONDITIONS[n % len(CONDITIONS)].format(n=n),
            parameters={"order": "${payload.orderId}", "note": "order ${payload.orderId:-none} at ${timestamp}"},
        )
        for n in range(1, RULES + 1)
    ]
    index = RuleIndex(rules)
    now = datetime.now(UTC)
    fired = _decide(index, now)
    assert fired == RULES // 10, f"{fired} of {RULES} rules fired"
    repeats, misses = [], []
    for _ in range(bench.repeat):
        repeats.append(_median(lambda _: _decide(index, now), EVENTS) * 1e3)
        unknown = [envelope(PAYLOAD, event_type=f"payment.completed.{n}") for n in range(MISSES)]
        # A new index: what it remembers of types is of none of these.
        cold = RuleIndex(rules)
        misses.append(_median(lambda n: cold.candidates(TENANT, unknown[n], "kafka:x", {}), MISSES) * 1e6)  # noqa: B023
    many = [
        rule(
            n,
            eventType="order.created" if n <= OF_MANY else f"other.{n}",
            condition=f"payload.amount > {n}000000",
        )
        for n in range(1, MANY + 1)
    ]
    index_of_many = RuleIndex(many)
    return Figures(
        "rules1000",
        "ms",
        repeats,
        [
            Required("value", at_most=15),
            Required("miss_us", at_most=20),
            Required("of_10000_us", at_most=200),
            Required("renew_10000_ms", at_most=100),
        ],
        settings={"rules": RULES, "events": EVENTS, "misses": MISSES, "value": "median event of each repeat"},
        extra={
            "miss_us": median(misses),
            "of_10000_us": _median(lambda _: _decide(index_of_many, now), EVENTS) * 1e6,
            "renew_10000_ms": _median(lambda _: RuleIndex(many), 5) * 1e3,
        },
    )


def _decide(index: RuleIndex, now: datetime) -> int:
    event = envelope(PAYLOAD)
    activation = Activation(event, "kafka:business-events", {}, "", now)
    candidates = index.candidates(TENANT, event, activation.channel, activation.headers)
    return sum(isinstance(evaluate(one, activation), Fires) for one in candidates)


def _median(work: Callable[[int], object], times: int) -> float:
    took = []
    for n in range(times):
        began = time.perf_counter()
        work(n)
        took.append(time.perf_counter() - began)
    return median(took)
