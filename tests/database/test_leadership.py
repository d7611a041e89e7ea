from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import F

from orchestrator.models import Lease
from orchestrator.services.leadership import Leadership

pytestmark = pytest.mark.django_db


def later(seconds: float) -> None:
    """Make all leases so much older."""
    Lease.objects.update(expires_at=F("expires_at") - timedelta(seconds=seconds))


def test_the_first_candidate_leads_and_the_second_stands_by() -> None:
    first, second = Leadership("reconciler"), Leadership("reconciler")

    assert first.seek() is True
    assert second.seek() is False
    assert first.seek() is True, "renewed"
    assert (first.still_leads(), second.still_leads()) == (True, False)


def test_two_roles_have_two_leaders() -> None:
    assert Leadership("beat").seek()
    assert Leadership("reconciler").seek()


def test_a_renewal_keeps_the_epoch_and_a_new_holder_raises_it() -> None:
    first, second = Leadership("beat"), Leadership("beat")
    first.seek()
    epoch = first.epoch
    first.seek()
    assert first.epoch == epoch

    later(3.1)
    assert second.seek() is True

    assert epoch is not None
    assert second.epoch == epoch + 1


def test_a_leader_that_was_replaced_no_longer_leads_and_cannot_come_back() -> None:
    first, second = Leadership("beat"), Leadership("beat")
    first.seek()
    later(3.1)
    second.seek()

    assert first.still_leads() is False
    assert first.seek() is False
    assert second.still_leads() is True


def test_an_expired_lease_leads_nobody() -> None:
    leader = Leadership("beat")
    leader.seek()
    later(3.1)

    assert leader.still_leads() is False


def test_the_same_holder_after_an_interlude_has_a_new_epoch() -> None:
    first, second = Leadership("beat"), Leadership("beat")
    first.seek()
    stale = first.epoch
    later(3.1)
    second.seek()
    later(3.1)

    first.seek()

    assert stale is not None
    assert first.epoch == stale + 2


def test_a_leader_that_resigns_is_followed_at_once() -> None:
    first, second = Leadership("beat"), Leadership("beat")
    first.seek()

    first.resign()

    assert first.still_leads() is False
    assert second.seek() is True


def test_resigning_without_the_lead_takes_it_from_nobody() -> None:
    first, second = Leadership("beat"), Leadership("beat")
    first.seek()

    second.resign()

    assert first.still_leads() is True
