"""The stages of a batch's rules: their rows locked, the pure decisions applied in order, what changed written back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import FiringRow
from triggers.rules.decide import Fires
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import Fire, Hold, StageDecision, State, Suppress, apply_stages, keeps_order, state_keys

if TYPE_CHECKING:
    from triggers.ingest.firing import Draft

#: Rule, stage, hash of its key.
RowKey = tuple[int, str, UUID]
LONGEST_REASON: Final = 500


class States:
    """Rows of RuleState, locked from their first reading to the end of the transaction."""

    def __init__(self, cursor: Any, keys: Collection[RowKey]) -> None:
        self._cursor = cursor
        self._rows: dict[RowKey, State] = {}
        self._changed: set[RowKey] = set()
        if keys:
            # One order for all writers, after the keys of events.
            ordered = sorted(keys, key=lambda key: (key[0], key[1], key[2].bytes))
            for key, columns in statements().lock_states(cursor, ordered).items():
                self._rows[key] = State(*columns)

    def of(self, rule_id: int, keys: Collection[tuple[str, UUID]]) -> Mapping[tuple[str, UUID], State]:
        """Return the states of a rule that were locked, among `keys`."""
        return {key: state for key in keys if (state := self._rows.get((rule_id, *key))) is not None}

    def change(self, rule_id: int, changed: Mapping[tuple[str, UUID], State]) -> None:
        """Take over what a decision changed."""
        for (stage, key_hash), state in changed.items():
            key = (rule_id, stage, key_hash)
            self._rows[key] = state
            self._changed.add(key)

    def lead(self, rule_id: int, stage: str, key_hash: UUID, firing_id: int) -> None:
        """Note the firing that opened a group."""
        key = (rule_id, stage, key_hash)
        state = self._rows[key]
        self._rows[key] = State(state.opened_at, state.window_until, state.count, state.generation, firing_id)
        self._changed.add(key)

    def save(self) -> None:
        """Write what changed."""
        if self._changed:
            rows = []
            for key in sorted(self._changed, key=lambda key: (key[0], key[1], key[2].bytes)):
                state = self._rows[key]
                rows.append((*key, state.opened_at, state.window_until, state.count, state.generation, state.firing_id))
            statements().save_states(self._cursor, rows)


class Stages:
    """Decides the stages of drafts, one after the other: each sees what those before it have changed."""

    def __init__(
        self,
        cursor: Any,
        drafts: Sequence[Draft],
        standing: Collection[int],
        *,
        now: datetime,
        skip: Collection[str] = (),
    ) -> None:
        self._now = now
        self._skip = skip
        rows: set[RowKey] = set()
        orders: set[tuple[int, UUID]] = set()
        for draft in drafts:
            rule, answer = draft.rule, draft.answer
            if isinstance(answer, Fires) and rule.programs.staged and rule.rule_id in standing:
                rows.update((rule.rule_id, *key) for key in state_keys(rule, answer, skip=skip))
                if (order := order_of(rule, answer)) is not None:
                    orders.add((rule.rule_id, order))
        self._states = States(cursor, rows)
        # (Rule, order) → when the last of those that are held before is released.
        self._behind: dict[tuple[int, UUID], datetime] = {}
        if orders:
            held = statements().held_before(cursor, sorted(orders, key=lambda key: (key[0], key[1].bytes)))
            self._behind = {key: release_at or now for key, release_at in held.items()}

    def passes(self, row: FiringRow, draft: Draft, answer: Fires) -> bool:
        """Whether the run is to be made now; if not, the row says what becomes of the firing."""
        rule = draft.rule
        if not rule.programs.staged:
            return True
        order = order_of(rule, answer)
        place = None if order is None else (rule.rule_id, order)
        decision = apply_stages(
            rule,
            answer,
            self._states.of(rule.rule_id, state_keys(rule, answer, skip=self._skip)),
            self._now,
            skip=self._skip,
            behind=None if place is None else self._behind.get(place),
        )
        write_decision(row, decision, self._states, order)
        if isinstance(decision.outcome, Hold) and place is not None:
            until = decision.outcome.release_at or self._now
            self._behind[place] = max(until, self._behind.get(place, until))
        return isinstance(decision.outcome, Fire)

    def save(self) -> None:
        """Write the states that changed."""
        self._states.save()


def write_decision(row: FiringRow, decision: StageDecision, states: States, order: UUID | None) -> None:
    """Bring a firing's row and the states to what was decided."""
    states.change(row.rule_id, decision.changed)
    outcome = decision.outcome
    if isinstance(outcome, Suppress):
        row.outcome, row.reason = "suppressed", outcome.reason[:LONGEST_REASON]
    elif isinstance(outcome, Hold):
        row.outcome, row.reason, row.stage = "held", outcome.reason[:LONGEST_REASON], outcome.stage
        row.key_hash, row.generation = outcome.key_hash, outcome.generation
        row.release_at, row.expires_at, row.order_hash = outcome.release_at, outcome.expires_at, order
        if outcome.leads and outcome.key_hash is not None:
            states.lead(row.rule_id, outcome.stage, outcome.key_hash, row.id)


def order_of(rule: CompiledRule, answer: Fires) -> UUID | None:
    """Return the order that the runs of a rule keep among themselves, None if any will do or nothing can be held."""
    return answer.admission_hash if keeps_order(rule) else None
