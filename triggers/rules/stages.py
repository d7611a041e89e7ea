"""What a rule does with an event that fires: let it through, hold it back, or drop it, each with its reason.

The stages follow one another: dedupe, throttle, debounce or batch, delay, window. What they remember is a `State` for
each stage and key, locked by the caller; the moments are the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from triggers.rules.decide import Fires
from triggers.rules.rule import CompiledRule
from triggers.rules.terms import STAGES, Throttle

#: Stage and hash of its key.
StateKey = tuple[str, UUID]

KEEPS_STATE: Final = ("dedupe", "throttle", "debounce", "batch")
GROUPS: Final = ("debounce", "batch")
#: What a replay asks for again: the first time has used up neither.
SKIPPED_BY_REPLAYS: Final = frozenset({"dedupe", "throttle"})
#: Where an event waits for an older one of its admission key, which is held.
ORDER: Final = "order"


@dataclass(frozen=True, slots=True)
class State:
    """What a stage remembers of a key: one row of RuleState."""

    #: When the open window or group began; None: none is open.
    opened_at: datetime | None = None
    #: When it ends; a row whose end has passed says nothing any more.
    window_until: datetime | None = None
    count: int = 0
    #: Groups that were closed before.
    generation: int = 0
    #: The held firing that opened the group; the caller's to set.
    firing_id: int | None = None


@dataclass(frozen=True, slots=True)
class Fire:
    """The run is made now, and cancelled if it has not started by `expires_at`."""

    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """A held firing. It is looked at again at `release_at`; None: the firing that opened its group is."""

    stage: str
    reason: str
    expires_at: datetime
    release_at: datetime | None
    #: Of the group; of a rule without groups, the admission key, by which later events find it.
    key_hash: UUID | None = None
    generation: int = 0
    #: It opened its group: the state's `firing_id` is to be its own.
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Suppress:
    """No run, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class StageDecision:
    """What becomes of the event, and the states to write with it."""

    outcome: Fire | Hold | Suppress
    changed: Mapping[StateKey, State] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """A held firing that is due."""

    stage: str
    key_hash: UUID | None
    generation: int
    expires_at: datetime


def state_keys(rule: CompiledRule, fires: Fires, *, skip: Collection[str] = ()) -> list[StateKey]:
    """Return the states that `apply_stages` asks for: lock them in the order of their primary keys."""
    if not rule.programs.staged:
        return []
    return [(stage, key) for stage in KEEPS_STATE if stage not in skip and (key := fires.key_hash(stage)) is not None]


def keeps_order(rule: CompiledRule) -> bool:
    """Whether an event must not overtake an older held one of its admission key."""
    concurrency = rule.spec.concurrency
    return rule.programs.staged and concurrency is not None and concurrency.on_exceed == "queue"


def apply_stages(
    rule: CompiledRule,
    fires: Fires,
    states: Mapping[StateKey, State],
    now: datetime,
    *,
    skip: Collection[str] = (),
    behind: datetime | None = None,
) -> StageDecision:
    """Return what becomes of an event that fires, beginning with the first stage.

    `states` has those of `state_keys` that exist. `behind` is when an older held firing of the same admission key is
    released, if there is one and `keeps_order`. Two events of a batch see each other's states: hand on `changed`.
    """
    if not rule.programs.staged:
        return StageDecision(Fire(now + timedelta(seconds=rule.spec.expires_seconds)))
    expires_at = now + timedelta(seconds=rule.spec.expires_seconds)
    return _Passage(rule, fires, states, now, expires_at, skip=skip, behind=behind).through(STAGES)


def group_opens_until(state: State | None, generation: int, now: datetime) -> datetime | None:
    """Return until when the group of that generation takes more events; None: it is complete, release it."""
    if state is None or state.generation != generation or state.opened_at is None or state.window_until is None:
        return None
    return state.window_until if state.window_until > now else None


def release(
    rule: CompiledRule,
    fires: Fires,
    held: Held,
    states: Mapping[StateKey, State],
    now: datetime,
    *,
    behind: datetime | None = None,
) -> StageDecision:
    """Return what becomes of a held firing that is due: the stages after the one that held it decide.

    For a debounce or batch, `fires` is of the group's last event, prepared with the ids of all. Of a released
    debounce the last firing fires and the others are suppressed (`debounced`); of a batch all of them fire, by one run.
    """
    changed: dict[StateKey, State] = {}
    if held.stage in GROUPS and held.key_hash is not None:
        key = (held.stage, held.key_hash)
        state = states.get(key)
        until = group_opens_until(state, held.generation, now)
        if until is not None:
            again = Hold(
                held.stage, _waits(held.stage), held.expires_at, until, held.key_hash, held.generation, leads=True
            )
            return StageDecision(again)
        if state is not None and state.generation == held.generation:
            changed[key] = State(generation=state.generation + 1)
    if held.stage in (ORDER, "window"):
        # Who comes late, after an outage or behind others, may find the window closed again.
        window = rule.spec.window
        following: tuple[str, ...] = ("window",) if window is not None and window.on_closed == "hold" else ()
    else:
        following = STAGES[STAGES.index(held.stage) + 1 :]
    group = (held.key_hash, held.generation) if rule.programs.grouped else None
    passage = _Passage(rule, fires, states, now, held.expires_at, skip=(), behind=behind, group=group)
    decision = passage.through(following)
    return replace(decision, changed={**changed, **decision.changed}) if changed else decision


def trigger_key(rule_id: int, event_id: int, replay_no: int) -> str:
    """Return what makes the run of a rule and an event one run."""
    return f"rule:{rule_id}:{event_id}:{replay_no}"


def group_trigger_key(rule_id: int, key: UUID, generation: int) -> str:
    """Return what makes the run of a group of events one run."""
    return f"rule:{rule_id}:group:{key.hex}:{generation}"


class _Passage:
    """One event on its way through the stages."""

    def __init__(
        self,
        rule: CompiledRule,
        fires: Fires,
        states: Mapping[StateKey, State],
        now: datetime,
        expires_at: datetime,
        *,
        skip: Collection[str],
        behind: datetime | None,
        group: tuple[UUID | None, int] | None = None,
    ) -> None:
        self.rule = rule
        self.spec = rule.spec
        self.fires = fires
        self.states = states
        self.now = now
        self.expires_at = expires_at
        self.skip = skip
        self.behind = behind
        self.group = group
        self.changed: dict[StateKey, State] = {}

    def through(self, stages: Collection[str]) -> StageDecision:
        for stage in stages:
            if stage in self.skip:
                continue
            outcome = getattr(self, f"_{stage}")()
            if outcome is not None:
                if isinstance(outcome, Suppress):
                    # What came of nothing opens no window for others: only the stage that dropped it has counted it.
                    self.changed = {key: state for key, state in self.changed.items() if key[0] == stage}
                return StageDecision(outcome, self.changed)
        if self.behind is not None and keeps_order(self.rule):
            return StageDecision(
                self._hold(ORDER, "ordered: an older event of its key is held", self.behind), self.changed
            )
        return StageDecision(Fire(self.expires_at), self.changed)

    def _dedupe(self) -> Suppress | None:
        dedupe, key = self.spec.dedupe, self.fires.dedupe_key_hash
        if dedupe is None or key is None:
            return None
        state = self.states.get(("dedupe", key), State())
        if state.window_until is not None and self.now < state.window_until:
            self.changed["dedupe", key] = replace(state, count=state.count + 1)
            return Suppress(
                f"deduplicated: an event of its key fired before; the next fires from {_at(state.window_until)}"
            )
        until = self.now + timedelta(seconds=dedupe.window)
        self.changed["dedupe", key] = State(self.now, until, 1, state.generation)
        return None

    def _throttle(self) -> Hold | Suppress | None:
        throttle, key = self.spec.throttle, self.fires.throttle_key_hash
        if throttle is None or key is None:
            return None
        state = _moved(self.states.get(("throttle", key), State()), throttle, self.now)
        assert state.opened_at is not None
        # The windows follow one another; a held event has its place in a later one.
        slot = state.opened_at + (state.count // throttle.limit) * timedelta(seconds=throttle.per)
        words = f"throttled: {throttle.limit} in {throttle.per:g} s are reached"
        if slot > self.now and throttle.on_exceed == "drop":
            return Suppress(words)
        count = state.count + 1
        ends = state.opened_at + (count // throttle.limit + 1) * timedelta(seconds=throttle.per)
        self.changed["throttle", key] = replace(state, count=count, window_until=ends)
        return self._hold("throttle", words, slot) if slot > self.now else None

    def _debounce(self) -> Hold | None:
        debounce, key = self.spec.debounce, self.fires.debounce_key_hash
        if debounce is None or key is None:
            return None
        quiet, longest = timedelta(seconds=debounce.quiet), timedelta(seconds=debounce.longest)
        state, opens = self._group("debounce", key)
        opened_at = self.now if opens else state.opened_at or self.now
        until = min(self.now + quiet, opened_at + longest)
        self.changed["debounce", key] = replace(state, opened_at=opened_at, window_until=until, count=state.count + 1)
        return self._member("debounce", key, state.generation, until if opens else None, leads=opens)

    def _batch(self) -> Hold | None:
        batch, key = self.spec.batch, self.fires.batch_key_hash
        if batch is None or key is None:
            return None
        state, opens = self._group("batch", key)
        opened_at = self.now if opens else state.opened_at or self.now
        until = opened_at + timedelta(seconds=batch.max_wait)
        if state.count + 1 >= batch.max_events:
            # Complete: whoever releases this firing releases the group; the next event opens another.
            self.changed["batch", key] = State(generation=state.generation + 1)
            return self._member("batch", key, state.generation, self.now)
        self.changed["batch", key] = replace(state, opened_at=opened_at, window_until=until, count=state.count + 1)
        return self._member("batch", key, state.generation, until if opens else None, leads=opens)

    def _group(self, stage: str, key: UUID) -> tuple[State, bool]:
        """Return the state of the group that takes the event, and whether the event opens it."""
        state = self.states.get((stage, key), State())
        if state.opened_at is None:
            return state, True
        if state.window_until is not None and self.now >= state.window_until:
            # It has ended, whether or not someone has come to release it.
            return State(generation=state.generation + 1), True
        return state, False

    def _member(
        self, stage: str, key: UUID, generation: int, release_at: datetime | None, *, leads: bool = False
    ) -> Hold:
        return Hold(stage, _waits(stage), self.expires_at, release_at, key, generation, leads)

    def _delay(self) -> Hold | None:
        if self.spec.delay is None:
            return None
        return self._hold("delay", f"delayed by {self.spec.delay:g} s", self.now + timedelta(seconds=self.spec.delay))

    def _window(self) -> Hold | Suppress | None:
        window = self.spec.window
        if window is None or window.is_open(self.now):
            return None
        words = f"outside_window: {window.allow} ({window.tz})"
        if window.on_closed == "drop":
            return Suppress(words)
        # One that never opens again keeps it until it expires, for all to see.
        return self._hold("window", words, window.opening(self.now) or self.expires_at)

    def _hold(self, stage: str, reason: str, release_at: datetime) -> Hold:
        key, generation = self.group or (self.fires.admission_hash, 0)
        return Hold(stage, reason, self.expires_at, release_at, key, generation)


def _moved(state: State, throttle: Throttle, now: datetime) -> State:
    """Return the state with its first window the one in which `now` lies."""
    if state.opened_at is None or now < state.opened_at:
        return replace(state, opened_at=state.opened_at or now)
    per = timedelta(seconds=throttle.per)
    passed = (now - state.opened_at) // per
    if not passed:
        return state
    left = state.count - passed * throttle.limit
    # Nobody waits: the next window begins with the next event.
    return (
        replace(state, opened_at=now, count=0)
        if left < 0
        else replace(state, opened_at=state.opened_at + passed * per, count=left)
    )


def _waits(stage: str) -> str:
    return "debounced: waits for its key to be quiet" if stage == "debounce" else "batched: waits for its batch"


def _at(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
