"""Ten thousand rules in one process: an event costs what its own rules cost, and a new set holds up no loop.

The bounds are ten times the figures of `rules1000`, which measures them: looking at every rule would be far beyond.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest

from tests.support.rules import NOON, TENANT, envelope, rule
from triggers.rules.decide import Activation, Fires, NotFired, evaluate
from triggers.rules.match import RuleIndex
from triggers.rules.rule import CompiledRule

RULES = 10_000
MATCHING = 50


def fastest(work: Callable[[], object], repeat: int) -> float:
    """Return the seconds of the fastest of several runs: what else the machine does only adds."""
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.fixture(scope="module")
def rules() -> list[CompiledRule]:
    return [
        rule(
            number,
            eventType="order.created" if number <= MATCHING else f"other.{number}",
            condition=f"payload.amount > {1000 + number}",
        )
        for number in range(1, RULES + 1)
    ]


def test_ten_thousand_rules_of_which_fifty_match_cost_an_event_little(rules: list[CompiledRule]):
    index = RuleIndex(rules)
    event = envelope({"amount": 1025, "padding": "x" * 300})

    def decide() -> list[object]:
        activation = Activation(event, "api", {}, "", NOON)
        return [evaluate(one, activation) for one in index.candidates(TENANT, event, "api", {})]

    outcomes = decide()

    assert [type(each) for each in outcomes] == [Fires] * 24 + [NotFired] * 26
    assert fastest(decide, 200) < 2e-3


def test_a_new_set_of_rules_does_not_hold_up_the_loop(rules: list[CompiledRule]):
    changed = [*rules[:-1], rule(RULES, eventType="order.#")]

    assert fastest(lambda: RuleIndex(changed), 5) < 1
    assert [one.rule_id for one in RuleIndex(changed).candidates(TENANT, envelope(), "api", {})][-1] == RULES


def test_a_miss_costs_next_to_nothing(rules: list[CompiledRule]):
    index = RuleIndex([*rules, rule(RULES + 1, eventType="nothing.*.#")])
    misses = [envelope(event_type=f"unknown.type.{number}") for number in range(1000)]

    took = []
    for miss in misses:
        began = time.perf_counter()
        assert not index.candidates(TENANT, miss, "api", {})
        took.append(time.perf_counter() - began)

    assert median(took) < 200e-6
