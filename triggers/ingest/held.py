"""What is held and due: released in order by the database's clock, or expired.

A held firing is a rule, an event and a stage. What it would start is made anew from the stored event by the version of
the rule that it was held by; its condition held when the event came, and is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from orchestrator.services.batches import RunRequest
from orchestrator.services.transactions import database_now, in_transaction
from triggers import metrics
from triggers.ingest.firing import Draft, Fired, Jobs, start
from triggers.ingest.stages import States, order_of, write_decision
from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import FiringRow
from triggers.ingest.stored import LONGEST_CHAIN, cause_of, envelope_of
from triggers.models import Event, Firing, RuleVersion, TriggerRule
from triggers.rules import decide
from triggers.rules.decide import Activation, EvaluationError, Fires
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import (
    GROUPS,
    ORDER,
    Fire,
    Held,
    group_trigger_key,
    release,
    state_keys,
    trigger_key,
)
from triggers.rules_cache import compiled

#: Firings of one transaction.
BATCH: Final = 200
#: Before an older firing of its order is looked at again, which was due and could not go.
PATIENCE: Final = timedelta(seconds=1)
LONGEST_REASON: Final = 500
#: Where a group waits that is complete.
_AFTER_GROUPS: Final = ("delay", "window", ORDER)
#: What a release may write to a firing.
_FIELDS: Final = (
    "outcome", "reason", "job_run_id", "stage", "key_hash", "generation", "release_at", "expires_at", "order_hash",
)  # fmt: skip

Guard = Callable[[], bool]


@dataclass(slots=True)
class Released:
    """What one transaction did: how many firings it looked at, and what became of them."""

    looked_at: int = 0
    fired: Fired = field(default_factory=Fired)


def expire_held(guard: Guard = lambda: True) -> int:
    """End firings that have waited for too long, at most a batch of them; returns how many. Safe to call twice."""

    def work() -> list[tuple[int, int]]:
        if not guard():
            return []
        now = database_now()
        due = Firing.objects.filter(outcome="held", expires_at__lte=now)
        rows = list(due.select_for_update().order_by("pk").values_list("pk", "rule_id")[:BATCH])
        Firing.objects.filter(pk__in=[pk for pk, _ in rows]).update(
            outcome="expired", reason="expired: it was held for longer than its rule allows", release_at=None
        )
        return rows

    rows = in_transaction(work)
    if rows:
        slugs = dict(TriggerRule.objects.filter(pk__in={rule for _, rule in rows}).values_list("pk", "slug"))
        for _, rule in rows:
            metrics.TRIGGERED.labels(slugs.get(rule, "deleted"), "expired").inc()
    return len(rows)


def release_due(guard: Guard = lambda: True) -> Released:
    """Release firings that are due, at most a batch of them, oldest first; start the runs of those that pass.

    `guard` is asked first inside the transaction; nothing is done when it says no. Safe to call twice. The runs are
    the caller's to launch.
    """

    def work() -> Released:
        with transaction.atomic(), connection.cursor() as cursor:
            return _Release(cursor).batch() if guard() else Released()

    released = in_transaction(work)
    released.fired.count()
    return released


class _Release:
    """One transaction of releases."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._now = database_now()
        self._fired = Fired()
        self._requests: list[RunRequest] = []
        self._started: list[tuple[FiringRow, Draft]] = []
        #: Firings that were decided, their rows, and those that share the run of another.
        self._rows: dict[int, tuple[Firing, FiringRow]] = {}
        self._sharing: list[tuple[FiringRow, FiringRow]] = []

    def batch(self) -> Released:
        due = self._due()
        if not due:
            return Released()
        rules = _rules_of(due)
        work = []
        for firing in due:
            rule = rules.get((firing.rule_id, firing.rule_version))
            work.append(_Work(firing, rule, self._members(firing, rule)))
        events = {event.pk: event for event in Event.objects.filter(pk__in={one.last.event_id for one in work})}
        for one in work:
            one.prepare(events.get(one.last.event_id), self._now)
        self._states = States(self._cursor, {(one.firing.rule_id, *key) for one in work for key in one.state_keys()})
        self._older = _older_of(work)
        jobs = Jobs(rules.values(), self._now)
        for one in work:
            if one.firing.pk not in self._rows:
                self._decide(one, jobs)
        start(self._requests, self._started, self._fired, self._now)
        for row, owner in self._sharing:
            row.job_run_id = owner.job_run_id
            row.outcome, row.reason = (
                (owner.outcome, owner.reason) if row.outcome == "fired" else (row.outcome, row.reason)
            )
        self._states.save()
        self._save(rules)
        return Released(len(due), self._fired)

    def _due(self) -> list[Firing]:
        """Return what is due, locked, oldest first; what belongs to deleted rules ends here."""
        due = Firing.objects.filter(outcome="held", release_at__lte=self._now).order_by("release_at", "pk")
        found = list(due.values_list("pk", "rule_id")[:BATCH])
        if not found:
            return []
        # Rules before firings, as everybody who locks both.
        standing = statements().lock_rules(self._cursor, sorted({rule for _, rule in found}))
        rows = Firing.objects.filter(pk__in=[pk for pk, _ in found], outcome="held").select_for_update().order_by("pk")
        firings = sorted(rows, key=lambda firing: (firing.release_at or self._now, firing.pk))
        gone = [firing.pk for firing in firings if firing.rule_id not in standing]
        Firing.objects.filter(pk__in=gone).update(outcome="suppressed", reason="rule_deleted", release_at=None)
        return [firing for firing in firings if firing.rule_id in standing]

    def _members(self, firing: Firing, rule: CompiledRule | None) -> list[Firing]:
        """Return the held firings of its group, oldest event first; none if it has no group."""
        groups = rule is not None and (rule.spec.debounce is not None or rule.spec.batch is not None)
        if not (firing.stage in GROUPS or (groups and firing.stage in _AFTER_GROUPS)):
            return []
        members = Firing.objects.filter(
            rule_id=firing.rule_id, key_hash=firing.key_hash, generation=firing.generation, outcome="held"
        )
        return list(members.select_for_update().order_by("event_id", "pk"))

    def _decide(self, one: _Work, jobs: Jobs) -> None:
        firing, rule, answer, draft = one.firing, one.rule, one.answer, one.draft
        row = self._row(firing)
        if rule is None or draft is None or isinstance(answer, str):
            row.outcome, row.reason = "error", str(answer)[:LONGEST_REASON]
        elif isinstance(answer, EvaluationError):
            row.outcome, row.reason = "error", f"{answer.reason} ({answer.position})"[:LONGEST_REASON]
        elif (target := jobs.target_of(rule)) is None or target.archived:
            row.outcome, row.reason = "suppressed", "job_archived: the job of the rule starts no more runs"
        else:
            order = order_of(rule, answer)
            decision = release(
                rule,
                answer,
                Held(firing.stage, firing.key_hash, firing.generation, firing.expires_at or self._now),
                self._states.of(rule.rule_id, one.state_keys()),
                self._now,
                behind=self._behind(one, order),
            )
            write_decision(row, decision, self._states, order)
            if isinstance(decision.outcome, Fire):
                key = (
                    group_trigger_key(rule.rule_id, firing.key_hash, firing.generation)
                    if one.members and firing.key_hash is not None
                    else trigger_key(rule.rule_id, firing.event_id, firing.replay_no)
                )
                request = jobs.request(draft, answer, target, key, group_size=len(one.members))
                if isinstance(request, str):
                    row.outcome, row.reason = "error", request[:LONGEST_REASON]
                else:
                    row.outcome, row.reason = "fired", ""
                    self._requests.append(request)
                    self._started.append((row, draft))
        self._spread(one, row)

    def _spread(self, one: _Work, row: FiringRow) -> None:
        """Let the other firings of a group share what became of one, and forget that it was held."""
        debounced = one.rule is not None and one.rule.spec.debounce is not None
        for member in one.members:
            if member.pk == one.firing.pk:
                continue
            other = self._row(member)
            if row.outcome == "held":
                # One of them waits for all.
                other.release_at = None
            elif row.outcome == "fired" and debounced and member is not one.last:
                other.outcome, other.reason = "suppressed", "debounced: a later event of its key fires"
            else:
                other.outcome, other.reason = row.outcome, row.reason
                self._sharing.append((other, row))
        if row.outcome == "fired" and debounced and one.firing.pk != one.last.pk:
            # Its run is the last event's.
            self._swap(row, self._rows[one.last.pk][1])
        self._note(one, row)

    def _swap(self, row: FiringRow, last: FiringRow) -> None:
        self._sharing = [pair for pair in self._sharing if pair[0] is not last]
        self._started = [(last if started is row else started, draft) for started, draft in self._started]
        last.outcome, last.reason = "fired", ""
        row.outcome, row.reason = "suppressed", "debounced: a later event of its key fires"

    def _row(self, firing: Firing) -> FiringRow:
        row = FiringRow(
            firing.pk,
            firing.tenant_id,
            firing.rule_id,
            firing.rule_version,
            firing.event_id,
            firing.replay_no,
            firing.created_at,
            firing.outcome,
            firing.reason,
            firing.job_run_id,
            firing.stage,
            firing.key_hash,
            firing.generation,
            firing.release_at,
            firing.expires_at,
            firing.order_hash,
        )
        self._rows[firing.pk] = (firing, row)
        return row

    def _behind(self, one: _Work, order: UUID | None) -> datetime | None:
        """Return when to look again because of older held firings of its order; None: there are none."""
        if order is None:
            return None
        own = {member.pk for member in one.members}
        until = [
            release_at
            for pk, release_at in self._older.get((one.firing.rule_id, order), {}).items()
            if pk < one.firing.pk and pk not in own
        ]
        return max([self._now + PATIENCE, *(moment for moment in until if moment is not None)]) if until else None

    def _note(self, one: _Work, row: FiringRow) -> None:
        """Keep what is held up to date for those that come after it in this batch."""
        for held in self._older.values():
            for firing in (one.firing, *one.members):
                if firing.pk not in held:
                    continue
                if row.outcome == "held":
                    held[firing.pk] = row.release_at
                else:
                    del held[firing.pk]

    def _save(self, rules: Mapping[tuple[int, int], CompiledRule]) -> None:
        for firing, row in self._rows.values():
            if row.outcome != "held":
                row.release_at = None
            for name in _FIELDS:
                setattr(firing, name, getattr(row, name))
            rule = rules.get((firing.rule_id, firing.rule_version))
            if rule is not None and row.outcome != "held":
                self._fired.outcomes[rule.slug, row.outcome] += 1
        Firing.objects.bulk_update([firing for firing, _ in self._rows.values()], _FIELDS, batch_size=BATCH)


class _Work:
    """A firing that is due, with the group that it stands for."""

    def __init__(self, firing: Firing, rule: CompiledRule | None, members: list[Firing]) -> None:
        self.firing = firing
        self.rule = rule
        self.members = members
        #: Whose event decides what the run is given.
        self.last = members[-1] if members else firing
        self.draft: Draft | None = None
        self.answer: Fires | EvaluationError | str = "rule_gone: the version of the rule cannot be read"

    def prepare(self, event: Event | None, now: datetime) -> None:
        """Make what the run would be given."""
        if self.rule is None:
            return
        if event is None:
            self.answer = "event_gone: its event was deleted while it was held"
            return
        envelope, cause = envelope_of(event), cause_of(event.metadata)
        ids = tuple(member.event_id for member in self.members)
        activation = Activation(envelope, event.channel, event.headers, event.ordering_key, now, ids, shallow=True)
        self.answer = answer = decide.prepare(self.rule, activation)
        self.draft = Draft(
            self.rule,
            answer,
            event.tenant_id,
            event.pk,
            envelope,
            event.channel,
            cause.root_event_id,
            event.depth,
            cause.chain[-LONGEST_CHAIN:],
        )

    def state_keys(self) -> set[tuple[str, UUID]]:
        """Return the states that deciding it may ask for."""
        keys: set[tuple[str, UUID]] = set()
        if self.firing.stage in GROUPS and self.firing.key_hash is not None:
            keys.add((self.firing.stage, self.firing.key_hash))
        if self.rule is not None and isinstance(self.answer, Fires):
            keys.update(state_keys(self.rule, self.answer))
        return keys


def _older_of(work: Sequence[_Work]) -> dict[tuple[int, UUID], dict[int, datetime | None]]:
    """Return (rule, order) → the firings that are held, and when each is released."""
    places = {
        (one.firing.rule_id, order)
        for one in work
        if one.rule is not None and isinstance(one.answer, Fires) and (order := order_of(one.rule, one.answer))
    }
    found: dict[tuple[int, UUID], dict[int, datetime | None]] = {place: {} for place in places}
    if places:
        held = Firing.objects.filter(
            outcome="held",
            rule_id__in={rule_id for rule_id, _ in places},
            order_hash__in={order for _, order in places},
        )
        for pk, rule_id, order, release_at in held.values_list("pk", "rule_id", "order_hash", "release_at"):
            if order is not None and (rule_id, order) in found:
                found[rule_id, order][pk] = release_at
    return found


def _rules_of(firings: Sequence[Firing]) -> dict[tuple[int, int], CompiledRule]:
    """Return (rule, version number) → the rule as it was when it held them; one that cannot be compiled is left out."""
    wanted = {(firing.rule_id, firing.rule_version) for firing in firings}
    versions = RuleVersion.objects.filter(
        rule_id__in={rule_id for rule_id, _ in wanted}, number__in={number for _, number in wanted}
    ).values_list("pk", "rule_id", "number")
    ids = [pk for pk, rule_id, number in versions if (rule_id, number) in wanted]
    return {(rule.rule_id, rule.number): rule for rule in compiled(sorted(ids))}
