"""The rules that a process holds: at most a second old, read only when something changed, and then only what is new."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.models import Tenant
from tests.support.records import default_tenant, new_job
from tests.support.rules import envelope
from triggers.models import RuleVersion, TriggerRule
from triggers.rules_cache import FixedRules, RuleCache, bump_epoch, compiled, current_epoch, latest_versions
from triggers.services import rules

pytestmark = pytest.mark.django_db


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stored(slug: str = "sync", **fields: Any) -> TriggerRule:
    form = {"ruleId": slug, "eventType": "order.created", "taskName": "nightly-etl", **fields}
    return rules.create_rule(tenant=default_tenant(), spec=rules.spec_of(form), by="ada")


@pytest.fixture(autouse=True)
def _job() -> None:
    new_job("nightly-etl")


def slugs(cache: RuleCache | FixedRules) -> list[str]:
    found = cache.current().candidates(default_tenant().pk, envelope(), "api", {})
    return [rule.slug for rule in found]


def test_a_change_is_seen_a_second_later_and_not_asked_for_before():
    clock = Clock()
    cache = RuleCache(clock=clock)
    stored("first")
    assert slugs(cache) == ["first"]
    stored("second")

    with CaptureQueriesContext(connection) as none:
        clock.now += 0.999
        cache.current()
    before = slugs(cache)
    clock.now += 0.001
    after = slugs(cache)

    assert (len(none), before, after) == (0, ["first"], ["first", "second"])


def test_without_a_change_a_look_costs_one_small_query():
    clock = Clock()
    cache = RuleCache(clock=clock)
    stored()
    cache.current()
    clock.now += 2

    with CaptureQueriesContext(connection) as captured:
        cache.current()

    assert len(captured) == 1
    assert "ruleepoch" in captured[0]["sql"]


def test_every_change_of_a_rule_is_seen():
    clock = Clock()
    cache = RuleCache(clock=clock)
    rule = stored()
    tenant = default_tenant()

    def seen() -> list[tuple[str, int]]:
        clock.now += 1
        found = cache.current().candidates(tenant.pk, envelope(), "api", {})
        return [(each.slug, each.number) for each in found]

    assert seen() == [("sync", 1)]
    form = rules.spec_of_rule(rule).to_form()
    rules.replace_rule(tenant=tenant, spec=rules.spec_of({**form, "priority": "LOW"}), by="ada")
    assert seen() == [("sync", 2)]
    rules.disable_rule(tenant=tenant, slug="sync", by="ada")
    assert seen() == []
    rules.enable_rule(tenant=tenant, slug="sync", by="ada")
    assert seen() == [("sync", 4)]
    assert rules.quarantine_rule(rule.pk, reason="too slow")
    assert seen() == []
    rules.enable_rule(tenant=tenant, slug="sync", by="ada")
    assert seen() == [("sync", 6)]
    rules.delete_rule(tenant=tenant, slug="sync", by="ada")
    assert seen() == []


def test_unchanged_versions_stay_compiled():
    clock = Clock()
    cache = RuleCache(clock=clock)
    stored("first")
    (before,) = cache.current().candidates(default_tenant().pk, envelope(), "api", {})
    stored("second")
    clock.now += 1

    after = cache.current().candidates(default_tenant().pk, envelope(), "api", {})

    assert after[0] is before
    assert [each.slug for each in after] == ["first", "second"]


def test_a_rule_that_a_later_release_does_not_understand_hinders_no_other():
    stored("first")
    broken = stored("second")
    RuleVersion.objects.filter(rule=broken).update(spec={"ruleId": "second"})

    assert slugs(RuleCache()) == ["first"]


def test_a_replay_may_hold_disabled_rules_too():
    stored("first")
    rules.disable_rule(tenant=default_tenant(), slug="first", by="ada")

    assert slugs(RuleCache()) == []
    assert slugs(FixedRules(compiled(list(latest_versions().values_list("pk", flat=True))))) == ["first"]


def test_the_number_grows_with_each_change():
    numbers = [current_epoch()]
    for _ in range(3):
        bump_epoch()
        numbers.append(current_epoch())

    assert numbers == [0, 1, 2, 3]


def test_ten_thousand_rules_are_read_again_without_a_stall():
    tenant = Tenant.objects.create(slug="many")
    specs = [
        rules.spec_of({
            "ruleId": f"rule-{n}", "eventType": f"type{n % 200}.created", "taskName": "nightly-etl",
            "condition": f"payload.amount > {n}", "dedupe": {"key": "payload.orderId", "window": "10m"},
        })
        for n in range(50)
    ]  # fmt: skip
    rows = [
        TriggerRule(tenant=tenant, slug=f"rule-{n}", spec={**specs[n % 50].canonical(), "ruleId": f"rule-{n}"})
        for n in range(10_000)
    ]
    TriggerRule.objects.bulk_create(rows, batch_size=500)
    kept = list(TriggerRule.objects.filter(tenant=tenant))
    RuleVersion.objects.bulk_create([RuleVersion(rule=row, number=1, spec=row.spec) for row in kept], batch_size=500)
    clock = Clock()
    cache = RuleCache(clock=clock)
    began = time.process_time()
    assert cache.current().size == 10_000
    first = time.process_time() - began

    durations = []
    for n in range(3):
        stored(f"new-{n}")
        clock.now += 1
        began = time.process_time()
        assert cache.current().size == 10_001 + n
        durations.append(time.process_time() - began)

    print(f"10,000 rules: first {first * 1000:.0f} ms, again {[round(each * 1000) for each in durations]} ms of CPU")
    assert min(durations) < 0.5


@pytest.mark.django_db(transaction=True)
def test_threads_that_find_it_old_renew_it_once():
    stored()
    cache = RuleCache()
    looks: list[int] = []
    renew = cache._renew

    def counted() -> None:
        looks.append(1)
        time.sleep(0.05)
        renew()

    cache._renew = counted  # type: ignore[method-assign]
    gate = threading.Barrier(4)
    seen: list[list[str]] = []

    def look() -> None:
        gate.wait(5)
        try:
            seen.append(slugs(cache))
        finally:
            connection.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (len(looks), seen) == (1, [["sync"]] * 4)
