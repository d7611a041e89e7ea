"""Stages of rules over batches, listeners and restarts: what they remember lies in the database; what they hold goes on
in its order, by the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from orchestrator.models import JobRun
from orchestrator.services.jobs import archive_job
from tests.support.ingesting import body, make_due, message, pipeline_of, rule_of, source_of, take
from triggers.ingest.held import expire_held, release_due
from triggers.models import Event, Firing, RuleState
from triggers.services.rules import delete_rule

pytestmark = pytest.mark.django_db

#: The transaction around a test began before it: its clock stands still.
MINUTE = timedelta(minutes=1)


def outcomes() -> list[tuple[str, str]]:
    """Of all firings in the order of their events: outcome and the first word of the reason."""
    rows = Firing.objects.order_by("event_id").values_list("outcome", "reason")
    return [(outcome, reason.replace(":", " ").split(" ")[0]) for outcome, reason in rows]


def order(number: int, key: str = "k", **payload: Any) -> Any:
    return message(body(number, {"key": key, "n": number, **payload}), number, key=key)


def release_all() -> int:
    """Let everything that is held be due until nothing is; returns how often that was."""
    rounds = 0
    while make_due():
        while release_due().looked_at:
            pass
        rounds += 1
        assert rounds < 20
    return rounds


# --- what two listeners and a restart share


def test_two_listeners_share_a_window_of_dedupe():
    rule_of(dedupe={"key": "payload.key", "window": "10m"})
    one, other = pipeline_of(source_of("one")), pipeline_of(source_of("two"))

    take([order(1)], one)
    take([order(2), order(3, "other")], other)
    take([order(4)], pipeline_of(one.source))

    assert outcomes() == [("fired", ""), ("suppressed", "deduplicated"), ("fired", ""), ("suppressed", "deduplicated")]
    assert JobRun.objects.count() == 2


def test_a_redelivered_batch_counts_once_in_every_stage():
    rule_of(throttle={"limit": 2, "per": "1h", "onExceed": "drop"})
    pipeline = pipeline_of(source_of())

    for _ in range(3):
        take([order(1)], pipeline)
    take([order(2), order(3)], pipeline)

    assert outcomes() == [("fired", ""), ("fired", ""), ("suppressed", "throttled")]


def test_what_a_throttle_holds_goes_on_window_by_window():
    rule_of(throttle={"limit": 1, "per": "1h", "onExceed": "hold"})

    take([order(1), order(2), order(3)])

    first, second, third = Firing.objects.order_by("event_id")
    assert [first.outcome, second.outcome, third.outcome] == ["fired", "held", "held"]
    assert third.release_at - second.release_at == timedelta(hours=1)
    assert release_due().looked_at == 0
    release_all()
    assert [run.event["payload"]["n"] for run in JobRun.objects.order_by("pk")] == [1, 2, 3]


def test_a_debounce_starts_one_run_of_the_last_event():
    rule_of(debounce={"key": "payload.key", "quiet": "30s"}, parameters={})
    one, other = pipeline_of(source_of("one")), pipeline_of(source_of("two"))
    take([order(1), order(2)], one)
    take([order(3)], other)
    assert JobRun.objects.count() == 0

    RuleState.objects.update(window_until=timezone.now() - MINUTE)
    release_all()

    run = JobRun.objects.get()
    events = list(Event.objects.order_by("pk").values_list("pk", flat=True))
    assert run.event["payload"]["n"] == 3
    assert run.event["events"] == events
    assert run.trigger_key.startswith(f"rule:{Firing.objects.first().rule_id}:group:")
    assert outcomes() == [("suppressed", "debounced"), ("suppressed", "debounced"), ("fired", "")]
    assert Firing.objects.get(outcome="fired").job_run_id == run.pk


def test_a_debounce_whose_quiet_time_has_moved_waits_on():
    rule_of(debounce={"key": "payload.key", "quiet": "30s"})
    take([order(1)])
    take([order(2)])

    make_due()
    release_due()

    held = Firing.objects.get(release_at__isnull=False)
    assert held.outcome == "held"
    assert held.release_at == RuleState.objects.get().window_until
    assert not JobRun.objects.exists()


def test_the_next_group_of_a_key_is_another_run():
    rule_of(debounce={"key": "payload.key", "quiet": "30s"})
    for number in (1, 2):
        take([order(number)])
        RuleState.objects.update(window_until=timezone.now() - MINUTE)
        release_all()

    assert [run.event["payload"]["n"] for run in JobRun.objects.order_by("pk")] == [1, 2]
    assert len({run.trigger_key for run in JobRun.objects.all()}) == 2


def test_a_complete_batch_is_released_at_once_as_one_run_of_all_its_events():
    rule_of(batch={"key": "payload.key", "maxEvents": 3, "maxWait": "60s"})
    one, other = pipeline_of(source_of("one")), pipeline_of(source_of("two"))
    take([order(1), order(2), order(10, "b")], one)
    take([order(3), order(4)], other)

    release_due()

    run = JobRun.objects.get()
    assert len(run.event["events"]) == 3
    assert list(Firing.objects.filter(job_run_id=run.pk).values_list("outcome", flat=True)) == ["fired"] * 3
    assert Firing.objects.filter(outcome="held").count() == 2
    assert release_due().looked_at == 0


def test_a_batch_that_never_fills_is_released_when_its_time_is_over():
    rule_of(batch={"key": "payload.key", "maxEvents": 100, "maxWait": "60s"})
    take([order(1), order(2)])
    RuleState.objects.update(window_until=timezone.now() - MINUTE)

    release_all()

    assert len(JobRun.objects.get().event["events"]) == 2


def test_a_delay_holds_and_lets_go():
    rule_of(delay="5m")
    take([order(1)])
    (held,) = Firing.objects.all()
    assert (held.outcome, held.stage) == ("held", "delay")
    assert timedelta(minutes=4) < held.release_at - timezone.now() < timedelta(minutes=6)

    make_due()
    released = release_due()

    run = JobRun.objects.get()
    assert released.fired.run_ids == [run.pk]
    assert (run.event["payload"]["n"], run.trigger_key) == (1, f"rule:{held.rule_id}:{held.event_id}:0")
    held.refresh_from_db()
    assert (held.outcome, held.job_run_id, held.release_at) == ("fired", run.pk, None)


def test_releasing_twice_starts_nothing_twice():
    rule_of(delay="5m")
    take([order(1)])
    make_due()
    release_due()
    Firing.objects.update(outcome="held", release_at=timezone.now() - MINUTE)  # as if the first had been forgotten

    release_due()

    assert JobRun.objects.count() == 1
    assert Firing.objects.get().job_run_id == JobRun.objects.get().pk


def test_who_does_not_lead_releases_and_expires_nothing():
    rule_of(delay="5m", expiresAfter="1h")
    take([order(1)])
    make_due()
    Firing.objects.update(expires_at=timezone.now() - MINUTE)

    assert release_due(lambda: False).looked_at == 0
    assert expire_held(lambda: False) == 0


def test_a_closed_window_holds_until_it_opens():
    closed = (timezone.now() + timedelta(hours=12)).hour
    rule_of(window={"tz": "UTC", "allow": f"* {closed} * * *", "onClosed": "hold"})

    take([order(1)])

    held = Firing.objects.get()
    assert (held.outcome, held.stage) == ("held", "window")
    assert (held.release_at.hour, held.release_at.minute) == (closed, 0)
    make_due()
    release_due()
    held.refresh_from_db()
    assert held.outcome == "held"


def test_a_closed_window_that_drops_suppresses():
    closed = (timezone.now() + timedelta(hours=12)).hour
    rule_of(window={"tz": "UTC", "allow": f"* {closed} * * *", "onClosed": "drop"})

    take([order(1)])

    assert outcomes() == [("suppressed", "outside_window")]


def test_a_batch_that_is_delayed_is_still_one_run():
    rule_of(batch={"key": "payload.key", "maxEvents": 2, "maxWait": "60s"}, delay="5m")
    take([order(1), order(2)])
    release_due()
    assert Firing.objects.filter(release_at__isnull=False).get().stage == "delay"

    release_all()

    assert len(JobRun.objects.get().event["events"]) == 2
    assert outcomes() == [("fired", ""), ("fired", "")]


# --- order


def test_a_later_event_of_a_key_waits_behind_an_older_one_that_is_held():
    rule_of(
        throttle={"limit": 1, "per": "1h", "onExceed": "hold", "key": "payload.kind"},
        concurrency={"key": "payload.key", "max": 1},
    )
    take([order(1, "a", kind="x"), order(2, "a", kind="x")])

    take([order(3, "a", kind="y"), order(4, "b", kind="z")])

    assert [(row.outcome, row.stage) for row in Firing.objects.order_by("event_id")] == [
        ("fired", ""), ("held", "throttle"), ("held", "order"), ("fired", ""),
    ]  # fmt: skip
    release_all()
    of_a = JobRun.objects.filter(event__payload__key="a").order_by("pk")
    assert [run.event["payload"]["n"] for run in of_a] == [1, 2, 3]


def test_one_that_is_due_before_an_older_one_of_its_key_does_not_overtake_it():
    rule_of(delay="5m", concurrency={"key": "payload.key", "max": 1})
    take([order(1)])
    take([order(2)])
    second = Firing.objects.order_by("event_id")[1]
    Firing.objects.filter(pk=second.pk).update(release_at=timezone.now() - MINUTE)

    release_due()

    second.refresh_from_db()
    assert (second.outcome, second.stage) == ("held", "order")
    release_all()
    assert [run.event["payload"]["n"] for run in JobRun.objects.order_by("pk")] == [1, 2]


def test_many_held_firings_of_many_keys_keep_their_order():
    rule_of(delay="5m", concurrency={"key": "payload.key", "max": 1})
    for number in range(0, 60, 20):
        take([order(n, f"k{n % 5}") for n in range(number, number + 20)])

    release_all()

    for key in range(5):
        runs = JobRun.objects.filter(event__payload__key=f"k{key}").order_by("pk")
        assert [run.event["payload"]["n"] for run in runs] == [n for n in range(60) if n % 5 == key]


# --- what never goes


def test_what_is_held_for_too_long_expires_and_says_so():
    rule_of(delay="5m", expiresAfter="1h")
    take([order(1)])
    Firing.objects.update(expires_at=timezone.now() - MINUTE)

    assert expire_held() == 1

    assert outcomes() == [("expired", "expired")]
    assert expire_held() == 0
    make_due()
    assert release_due().looked_at == 0


def test_what_a_deleted_rule_held_is_suppressed():
    rule = rule_of(delay="5m")
    take([order(1)])
    delete_rule(tenant=rule.tenant, slug=rule.slug, by="ada")

    assert outcomes() == [("suppressed", "rule_deleted")]


def test_a_job_that_was_archived_meanwhile_suppresses_what_was_held():
    rule_of(delay="5m")
    take([order(1)])
    archive_job(JobRun.job.field.related_model.objects.get(name="sync"), by="ada")
    make_due()

    release_due()

    assert outcomes() == [("suppressed", "job_archived")]


def test_an_event_that_was_deleted_meanwhile_is_an_error_of_the_firing():
    rule_of(delay="5m")
    take([order(1)])
    Event.objects.all().delete()
    make_due()

    release_due()

    assert outcomes() == [("error", "event_gone")]


def test_what_is_held_goes_on_by_the_version_that_held_it():
    from dataclasses import replace

    from triggers.services.rules import replace_rule, spec_of_rule

    rule = rule_of(delay="5m", priority="HIGH")
    take([order(1)])
    replace_rule(tenant=rule.tenant, spec=replace(spec_of_rule(rule), priority="LOW", delay=None), by="ada")
    make_due()

    release_due()

    run = JobRun.objects.get()
    assert (run.priority, run.trigger["rule_version"]) == (1, 1)
