"""A rule whose condition costs too much, on the way from its events to its end."""

from __future__ import annotations

import pytest

from tests.support.ingesting import body, message, pipeline_of, rule_of, take
from triggers.models import Firing, TriggerRule
from triggers.rules.quarantine import ERRORS

pytestmark = pytest.mark.django_db(transaction=True)

RUNAWAY = "payload.items.exists(a, payload.items.exists(b, payload.items.exists(c, a + b + c < 0)))"


def test_a_rule_that_is_over_its_budget_a_hundred_times_fires_no_more_and_its_neighbour_goes_on():
    costly, cheap = rule_of(ruleId="costly", condition=RUNAWAY), rule_of(ruleId="cheap")
    pipeline = pipeline_of()
    payload = {"items": list(range(400))}

    for start in range(0, ERRORS, 25):
        take([message(body(n, payload), n) for n in range(start, start + 25)], pipeline)
    costly.refresh_from_db()

    assert (costly.enabled, costly.quarantine_reason) == (
        False, "its expressions exceeded their budgets 100 times within 5 minutes",
    )  # fmt: skip
    assert costly.quarantined_at is not None
    refused = Firing.objects.filter(rule_id=costly.pk)
    assert refused.count() == ERRORS
    assert {one.reason.partition(":")[0] for one in refused} == {"over_budget"}

    take([message(body(ERRORS, payload), ERRORS)], pipeline)

    assert refused.count() == ERRORS
    assert Firing.objects.filter(rule_id=cheap.pk, outcome="fired").count() == ERRORS + 1
    assert TriggerRule.objects.get(pk=cheap.pk).enabled
