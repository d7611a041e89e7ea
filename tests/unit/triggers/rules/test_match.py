from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rules import TENANT, envelope, rule
from triggers.rules.match import REMEMBERED, RuleIndex, matches_type
from triggers.rules.rule import CompiledRule


def found(rules: list[CompiledRule], *, tenant: int = TENANT, channel: str = "api", **fields) -> list[int]:
    headers = fields.pop("headers", {})
    return [one.rule_id for one in RuleIndex(rules).candidates(tenant, envelope(**fields), channel, headers)]


@pytest.mark.parametrize(
    ("pattern", "event_type", "expected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.created.v1", False),
        ("order.*", "order.created", True),
        ("order.*", "order.created.v1", False),
        ("order.*", "order", False),
        ("order.#", "order.created", True),
        ("order.#", "order.created.v1", True),
        ("order.#", "order", True),
        ("order.#", "orders.created", False),
        ("#", "anything.at.all", True),
        ("*", "anything", True),
        ("*", "any.thing", False),
        ("*.created", "order.created", True),
        ("*.created", "created", False),
        ("github.*.success", "github.deployment_status.success", True),
        ("*.*.#", "a", False),
        ("*.*.#", "a.b", True),
        ("order.*", "order.*", True),
        ("order.created", "order.*", False),
        ("order.#", "order.#", True),
        ("订单.*", "订单.创建", True),
    ],
)
def test_a_type_matches_as_routing_keys_do(pattern: str, event_type: str, expected: bool):
    assert matches_type(pattern, event_type) is expected
    assert found([rule(eventType=pattern)], event_type=event_type) == ([1] if expected else [])


def test_a_rule_of_several_types_is_found_once():
    several = rule(eventType=["order.created", "order.*", "order.#", "#"])

    assert found([several], event_type="order.created") == [1]


def test_candidates_come_in_the_order_of_their_ids():
    rules = [rule(3, eventType="#"), rule(1, eventType="order.created"), rule(2, eventType="order.*")]

    assert found(rules, event_type="order.created") == [1, 2, 3]


def test_a_tenant_never_meets_anothers_rules():
    rules = [rule(1, tenant=1, eventType="#"), rule(2, tenant=2, eventType="#")]

    assert found(rules, tenant=2) == [2]
    assert found(rules, tenant=3) == []


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"source": "order-service"}, True),
        ({"source": ["shop", "order-service"]}, True),
        ({"source": "shop"}, False),
        ({"channel": "kafka:business-events"}, True),
        ({"channel": "kafka:others"}, False),
        ({"headers": {"X-Tenant": "a"}}, True),
        ({"headers": {"x-tenant": "b"}}, False),
        ({"headers": {"x-tenant": "a", "x-other": ""}}, False),
        ({"source": "order-service", "channel": "kafka:others"}, False),
    ],
)
def test_source_channel_and_headers_narrow_a_rule(match, expected: bool):
    rules = [rule(1, match=match), rule(2)]

    assert found(rules, channel="kafka:business-events", headers={"x-tenant": "a"}) == ([1, 2] if expected else [2])


def test_what_is_remembered_of_types_has_an_end():
    index = RuleIndex([rule(eventType="order.#")])

    for number in range(REMEMBERED * 2 + 1):
        assert len(index.candidates(TENANT, envelope(event_type=f"order.{number}"), "api", {})) == 1

    assert len(index._tenants[TENANT]._remembered) <= REMEMBERED


WORDS = st.sampled_from(["a", "b", "c", "*", "#"])
TYPES = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=5).map(".".join)
PATTERNS = st.lists(WORDS, min_size=1, max_size=5).map(
    lambda words: ".".join([*("*" if word == "#" else word for word in words[:-1]), words[-1]])
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.lists(PATTERNS, min_size=1, max_size=3), st.booleans()), max_size=12),
    st.integers(1, 3),
    TYPES,
    st.sampled_from(["shop", "order-service"]),
)
def test_the_index_finds_what_a_look_at_every_rule_finds(written, tenant: int, event_type: str, source: str):
    rules = [
        rule(number, tenant=owner, eventType=patterns, match={"source": "shop"} if narrow else None)
        for number, (owner, patterns, narrow) in enumerate(written, start=1)
    ]

    naive = [
        one.rule_id
        for one in rules
        if one.tenant_id == tenant
        and any(matches_type(pattern, event_type) for pattern in one.patterns)
        and (not one.sources or source in one.sources)
    ]

    assert found(rules, tenant=tenant, event_type=event_type, source=source) == naive
