from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rules import NOON, activation, rule
from triggers.rules.decide import Fires, evaluate
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import (
    SKIPPED_BY_REPLAYS,
    Fire,
    Held,
    Hold,
    State,
    StateKey,
    Suppress,
    apply_stages,
    group_opens_until,
    group_trigger_key,
    keeps_order,
    release,
    state_keys,
    trigger_key,
)

WEEK = timedelta(days=7)


def seconds(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


@dataclass
class Ledger:
    """What the database keeps between events: two listeners, or one before and after a restart, share it."""

    rule: CompiledRule
    states: dict[StateKey, State] = field(default_factory=dict)
    #: (moment, payload, outcome)
    log: list[Any] = field(default_factory=list)

    def fires(self, payload: dict[str, Any], at: datetime) -> Fires:
        found = evaluate(self.rule, activation(payload, now=at))
        assert isinstance(found, Fires), found
        return found

    def event(self, at: datetime, payload: dict[str, Any] | None = None, **more: Any) -> Fire | Hold | Suppress:
        fires = self.fires(payload or {"id": 1}, at)
        asked = {
            key: self.states[key]
            for key in state_keys(self.rule, fires, skip=more.get("skip", ()))
            if key in self.states
        }
        decision = apply_stages(self.rule, fires, asked, at, **more)
        assert set(decision.changed) <= set(state_keys(self.rule, fires))
        self.states |= decision.changed
        return decision.outcome

    def released(self, hold: Hold, at: datetime, **more: Any) -> Fire | Hold | Suppress:
        held = Held(hold.stage, hold.key_hash, hold.generation, hold.expires_at)
        decision = release(self.rule, self.fires({"id": 1}, at), held, self.states, at, **more)
        self.states |= decision.changed
        return decision.outcome


def hold_of(outcome: Any) -> Hold:
    assert isinstance(outcome, Hold), outcome
    return outcome


def word(outcome: Any) -> str:
    return "fire" if isinstance(outcome, Fire) else outcome.reason.partition(":")[0]


def test_a_rule_without_stages_fires_and_its_run_expires_in_a_week():
    assert Ledger(rule()).event(NOON) == Fire(NOON + WEEK)
    assert Ledger(rule(expiresAfter="1h")).event(NOON) == Fire(NOON + timedelta(hours=1))
    assert state_keys(rule(), Ledger(rule()).fires({}, NOON)) == []


# --- dedupe


def test_of_the_events_of_a_key_within_the_window_the_first_alone_fires():
    ledger = Ledger(rule(dedupe={"key": "payload.id", "window": "10m"}))

    outcomes = [word(ledger.event(seconds(at))) for at in (0, 1, 599, 600, 601)]

    assert outcomes == ["fire", "deduplicated", "deduplicated", "fire", "deduplicated"]
    assert word(ledger.event(seconds(602), {"id": 2})) == "fire"


def test_two_events_of_one_batch_see_each_other():
    ledger = Ledger(rule(dedupe={"key": "payload.id", "window": "10m"}))

    assert [word(ledger.event(NOON)) for _ in range(3)] == ["fire", "deduplicated", "deduplicated"]


def test_an_event_that_a_later_stage_drops_opens_no_dedupe_window():
    ledger = Ledger(
        rule(
            dedupe={"key": "payload.id", "window": "1h"},
            window={"allow": "* 13 * * *", "onClosed": "drop"},
        )
    )

    assert word(ledger.event(NOON)) == "outside_window"
    assert word(ledger.event(NOON + timedelta(hours=1))) == "fire"


def test_a_replay_passes_dedupe_and_throttle():
    ledger = Ledger(rule(dedupe={"key": "payload.id", "window": "10m"}, throttle={"limit": 1, "per": "1m"}, delay="5m"))
    ledger.event(NOON)

    again = ledger.event(NOON, skip=SKIPPED_BY_REPLAYS)

    assert hold_of(again).stage == "delay"


# --- throttle


def test_what_is_over_the_limit_is_dropped():
    ledger = Ledger(rule(throttle={"limit": 2, "per": "1m", "onExceed": "drop"}))

    outcomes = [word(ledger.event(seconds(at))) for at in (0, 1, 2, 59, 60, 61, 62, 200)]

    assert outcomes == ["fire", "fire", "throttled", "throttled", "fire", "fire", "throttled", "fire"]


def test_what_is_over_the_limit_waits_for_its_turn_in_order():
    ledger = Ledger(rule(throttle={"limit": 2, "per": "1m"}))

    outcomes = [ledger.event(seconds(at)) for at in range(7)]

    assert [word(each) for each in outcomes] == ["fire", "fire"] + ["throttled"] * 5
    assert [hold_of(each).release_at for each in outcomes[2:]] == [
        seconds(60), seconds(60), seconds(120), seconds(120), seconds(180),
    ]  # fmt: skip
    # The turn that came fires, and a newcomer goes behind those who wait.
    assert isinstance(ledger.released(hold_of(outcomes[2]), seconds(60)), Fire)
    assert hold_of(ledger.event(seconds(61))).release_at == seconds(180)
    assert isinstance(ledger.event(seconds(241)), Fire)


def test_a_throttle_may_count_by_key():
    ledger = Ledger(rule(throttle={"limit": 1, "per": "1m", "onExceed": "drop", "key": "payload.id"}))

    assert [word(ledger.event(NOON, {"id": n})) for n in (1, 2, 1)] == ["fire", "fire", "throttled"]


@settings(max_examples=200)
@given(st.integers(1, 5), st.integers(1, 30), st.lists(st.integers(0, 40), min_size=1, max_size=60), st.booleans())
def test_no_more_than_the_limit_passes_in_any_window_of_its_clock(limit: int, per: int, gaps: list[int], hold: bool):
    ledger = Ledger(rule(throttle={"limit": limit, "per": per, "onExceed": "hold" if hold else "drop"}))
    now, starts = 0, []

    for gap in gaps:
        now += gap
        outcome = ledger.event(seconds(now))
        if isinstance(outcome, Fire):
            starts.append(seconds(now))
        elif isinstance(outcome, Hold):
            assert outcome.release_at is not None
            assert outcome.release_at > seconds(now)
            starts.append(outcome.release_at)

    if hold:
        assert len(starts) == len(gaps)
        assert starts == sorted(starts)
    # Two windows touch: at most twice the limit in the length of one.
    for start in starts:
        assert sum(start <= other < start + timedelta(seconds=per) for other in starts) <= 2 * limit


# --- debounce


def test_a_debounce_waits_until_its_key_is_quiet():
    ledger = Ledger(rule(debounce={"key": "payload.id", "quiet": "30s", "maxWait": "5m"}))

    first, second = hold_of(ledger.event(NOON)), hold_of(ledger.event(seconds(20)))

    assert (first.leads, first.release_at, first.generation) == (True, seconds(30), 0)
    assert (second.leads, second.release_at, second.generation) == (False, None, 0)
    assert first.key_hash == second.key_hash
    # Due by its own row, but the group goes on: it is looked at again when the group may end.
    assert hold_of(ledger.released(first, seconds(30))).release_at == seconds(50)
    assert isinstance(ledger.released(first, seconds(50)), Fire)
    assert hold_of(ledger.event(seconds(51))).generation == 1


def test_a_debounce_that_is_never_quiet_ends_at_its_longest_wait():
    ledger = Ledger(rule(debounce={"key": "payload.id", "quiet": "30s", "maxWait": "60s"}))
    first = hold_of(ledger.event(NOON))
    for at in range(10, 60, 10):
        assert hold_of(ledger.event(seconds(at))).generation == 0

    assert group_opens_until(ledger.states["debounce", first.key_hash], 0, seconds(59)) == seconds(60)  # type: ignore[index]
    # Nobody has released it yet, and still the next event is of another group.
    assert hold_of(ledger.event(seconds(60))).generation == 1
    assert isinstance(ledger.released(first, seconds(61)), Fire)
    assert hold_of(ledger.event(seconds(62))).generation == 1


# --- batch


def test_a_batch_is_complete_with_its_last_event():
    ledger = Ledger(rule(batch={"key": "payload.id", "maxEvents": 3, "maxWait": "60s"}))

    first, second, third, fourth = (hold_of(ledger.event(seconds(at))) for at in range(4))

    assert [each.release_at for each in (first, second, third)] == [seconds(60), None, seconds(2)]
    assert [each.generation for each in (first, second, third, fourth)] == [0, 0, 0, 1]
    assert isinstance(ledger.released(third, seconds(2)), Fire)
    # The second group is not closed by the release of the first.
    assert hold_of(ledger.released(fourth, seconds(5))).release_at == seconds(63)


def test_a_batch_ends_after_its_longest_wait():
    ledger = Ledger(rule(batch={"key": "payload.id", "maxEvents": 100, "maxWait": "60s"}))
    first = hold_of(ledger.event(NOON))
    ledger.event(seconds(59))

    assert isinstance(ledger.released(first, seconds(60)), Fire)
    assert hold_of(ledger.event(seconds(61))).generation == 1


def test_a_group_that_is_delayed_after_its_release_is_still_that_group():
    ledger = Ledger(
        rule(batch={"key": "payload.id", "maxEvents": 1, "maxWait": "60s"}, delay="1m", concurrency={"max": 1})
    )
    held = hold_of(ledger.event(NOON))

    delayed = hold_of(ledger.released(held, NOON))

    assert (delayed.stage, delayed.key_hash, delayed.generation) == ("delay", held.key_hash, held.generation)
    assert isinstance(ledger.released(delayed, seconds(60)), Fire)


@settings(max_examples=200)
@given(
    st.sampled_from(["debounce", "batch"]),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=40),
)
def test_every_event_is_of_exactly_one_group_and_every_group_is_released_once(kind: str, most: int, steps):
    stage = {"quiet": "10s", "maxWait": "30s"} if kind == "debounce" else {"maxEvents": most, "maxWait": "30s"}
    ledger = Ledger(rule(**{kind: {"key": "payload.id", **stage}}))
    members: dict[int, int] = {}
    due: dict[int, tuple[datetime, Hold]] = {}
    released: list[int] = []
    now = 0

    def let_go(at: datetime) -> None:
        for generation, (moment, hold) in sorted(due.items()):
            if moment <= at:
                outcome = ledger.released(hold, at)
                if isinstance(outcome, Hold):
                    assert outcome.release_at is not None
                    assert outcome.release_at > at
                    due[generation] = (outcome.release_at, hold)
                else:
                    del due[generation]
                    released.append(generation)

    for gap, timers_run in steps:
        now += gap
        if timers_run:
            let_go(seconds(now))
        hold = hold_of(ledger.event(seconds(now)))
        assert hold.generation not in released
        members[hold.generation] = members.get(hold.generation, 0) + 1
        if hold.release_at is not None:
            due[hold.generation] = (hold.release_at, hold)
    for _ in range(5):
        now += 60
        let_go(seconds(now))

    assert not due
    assert sorted(released) == sorted(members) == list(range(len(members)))
    assert sum(members.values()) == len(steps)
    if kind == "batch":
        assert max(members.values()) <= most


# --- delay, window, order


def test_a_delay_and_then_the_window_hold_an_event_one_after_the_other():
    ledger = Ledger(rule(delay="5m", window={"allow": "* 22-23 * * *", "tz": "UTC"}, expiresAfter="1d"))

    delayed = hold_of(ledger.event(NOON))
    closed = hold_of(ledger.released(delayed, seconds(300)))

    assert (delayed.stage, delayed.release_at) == ("delay", seconds(300))
    assert (closed.stage, closed.release_at) == ("window", NOON.replace(hour=22))
    assert closed.expires_at == delayed.expires_at == NOON + timedelta(days=1)
    assert word(closed) == "outside_window"
    assert isinstance(ledger.released(closed, NOON.replace(hour=22)), Fire)


def test_what_is_released_late_finds_the_window_closed_again():
    ledger = Ledger(rule(window={"allow": "* 22-23 * * *"}))
    held = hold_of(ledger.event(NOON))

    late = NOON + timedelta(hours=14)

    again = hold_of(ledger.released(held, late))
    assert (again.stage, again.release_at, again.expires_at) == (
        "window",
        NOON.replace(day=2, hour=22),
        held.expires_at,
    )


def test_an_event_does_not_overtake_an_older_held_one_of_its_key():
    ordered = rule(concurrency={"key": "payload.id", "max": 1}, window={"allow": "* 13 * * *"})
    ledger = Ledger(ordered)
    older = hold_of(ledger.event(NOON))
    later = NOON + timedelta(hours=1)

    newer = hold_of(ledger.event(later, behind=later))

    assert keeps_order(ordered)
    assert older.key_hash == newer.key_hash
    assert (newer.stage, newer.release_at, word(newer)) == ("order", later, "ordered")
    assert isinstance(ledger.released(newer, later), Fire)
    assert hold_of(ledger.released(newer, later, behind=later)).stage == "order"


@pytest.mark.parametrize(
    "fields",
    [{}, {"concurrency": {"max": 1}}, {"delay": "1m"}, {"delay": "1m", "concurrency": {"max": 1, "onExceed": "drop"}}],
)
def test_a_rule_that_asks_for_no_order_waits_for_nobody(fields: dict[str, Any]):
    assert not keeps_order(rule(**fields))


def test_the_key_of_a_run_says_what_it_is_of():
    key = hold_of(Ledger(rule(debounce={"key": "payload.id", "quiet": "1m"})).event(NOON)).key_hash

    assert key is not None
    assert trigger_key(7, 41, 0) == "rule:7:41:0"
    assert group_trigger_key(7, key, 3) == f"rule:7:group:{key.hex}:3"


def test_a_state_survives_being_stored():
    """Two listeners, or one that is started anew, decide by the row alone."""
    one = Ledger(rule(throttle={"limit": 3, "per": "1m"}, dedupe={"key": "payload.id", "window": "1m"}))
    other = Ledger(one.rule)

    outcomes = [word(ledger.event(seconds(n), {"id": n})) for n, ledger in enumerate([one, other, one, other, one])]
    one.states.update({key: replace(state) for key, state in other.states.items()})

    assert outcomes[:3] == ["fire"] * 3
