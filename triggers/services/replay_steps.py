"""Replays go on: stored events, or dead letters, given to the rules of today once more.

A replay goes on in steps, each one transaction that moves its position. Its id is the `replay_no` of its firings and
a part of the keys of its runs: a step that is repeated after a crash finds what it made, and doubles nothing. The call
that asks for a replay does the first steps itself; the timers do the rest.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from orchestrator.services.runs import publish_launch
from orchestrator.services.transactions import database_now, in_transaction
from triggers.envelope import Received
from triggers.ingest.batch import Infrastructure, SourceView
from triggers.ingest.budgets import note_budget_errors
from triggers.ingest.firing import Draft, Fired, fire
from triggers.ingest.pipeline import Pipeline
from triggers.ingest.statements import statements
from triggers.ingest.stored import cause_of, envelope_of
from triggers.metrics import LAUNCH_FAILURES
from triggers.models import DeadLetter, Event, Replay
from triggers.rules.decide import Activation, EvaluationError, NotFired, evaluate
from triggers.rules.stages import SKIPPED_BY_REPLAYS, Hold, Suppress, apply_stages
from triggers.rules_cache import FixedRules, compiled, in_force, latest_versions
from triggers.selectors.events import chosen_events, event_filter
from triggers.services.dead_letters import resolve_letter
from triggers.services.replays import record
from triggers.services.webhooks import message_again

log = logging.getLogger(__name__)

#: Events of one step.
STEP: Final = 200
#: What a dry run shows of what would happen.
SAMPLES: Final = 20
#: Reasons of letters whose message has no id of its own, or that of another: its letter gives it one.
_RENAMED: Final = ("conflict", "no_id")
#: What killed the process that read it is not read by this one.
_DEADLY: Final = "crash_loop"


@dataclass(slots=True)
class _Step:
    """What one step did; true only once it is committed."""

    #: The last event or letter that it looked at.
    position: int
    #: Whether there is nothing behind it.
    ended: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    run_ids: list[int] = field(default_factory=list)
    #: What to count once it is committed.
    fired: list[Fired] = field(default_factory=list)


def advance_replays(*, seconds: float) -> int:
    """Go on with replays that are not at their end, for so many seconds; returns how many still are not.

    For the timers. Safe to call in several processes at once: each step is done by one of them.
    """
    ends = time.monotonic() + seconds
    running = list(Replay.objects.filter(state="running").order_by("pk").values_list("pk", flat=True))
    if not running:
        return 0
    for index, replay_id in enumerate(running):
        # Each gets its share, so that a long one does not keep the others waiting.
        share = (ends - time.monotonic()) / (len(running) - index)
        if share <= 0:
            break
        advance_replay(replay_id, seconds=share)
    return Replay.objects.filter(state="running").count()


def advance_replay(replay_id: int, *, seconds: float) -> Replay:
    """Do steps of a replay until its end or for so many seconds, one at least; returns it as it then is."""
    ends = time.monotonic() + seconds
    while _advance(replay_id) and time.monotonic() < ends:
        pass
    return Replay.objects.get(pk=replay_id)


def _advance(replay_id: int) -> bool:
    """Do one step; False at the end, or where another process is at it, or the database cannot take it now."""

    def work() -> _Step | None:
        with transaction.atomic():
            rows = Replay.objects.select_for_update(skip_locked=True)
            replay = rows.filter(pk=replay_id, state="running").first()
            if replay is None:
                return None
            step = _letter_step(replay) if "dead_letters" in replay.selection else _event_step(replay)
            _keep(replay, step)
            return step

    try:
        step = in_transaction(work)
    except (Infrastructure, OperationalError, InterfaceError) as error:
        # Held as a listener holds its batch: the timers come back to it.
        log.warning("a replay waits for the database", extra={"replay": replay_id, "reason": str(error)})
        return False
    except Exception as error:  # the border of one replay: it must not keep the others from going on
        log.error("a replay failed", extra={"replay": replay_id, "reason": str(error)}, exc_info=error)
        _fail(replay_id, f"{type(error).__name__}: {error}")
        return False
    if step is None:
        return False
    for fired in step.fired:
        fired.count()
        note_budget_errors(fired.over_budget, timezone.now())
    _launch(step.run_ids)
    return not step.ended


def _keep(replay: Replay, step: _Step) -> None:
    counts = Counter(replay.counts)
    counts.update(step.counts)
    replay.counts = dict(counts)
    replay.samples = [*replay.samples, *step.samples][:SAMPLES]
    replay.position = step.position
    if step.ended:
        _end(replay, "done", "")
    replay.save(update_fields=["counts", "samples", "position", "state", "reason", "ended_at"])


def _fail(replay_id: int, reason: str) -> None:
    def work() -> None:
        with transaction.atomic():
            replay = Replay.objects.select_for_update().filter(pk=replay_id, state="running").first()
            if replay is not None:
                _end(replay, "failed", reason[:500])
                replay.save(update_fields=["state", "reason", "ended_at"])

    in_transaction(work)


def _end(replay: Replay, state: str, reason: str) -> None:
    replay.state, replay.reason, replay.ended_at = state, reason, database_now()
    record(replay, "running", state, reason=reason)


def _event_step(replay: Replay) -> _Step:
    """Give the next events to the rules."""
    rows = list(_next_events(replay))
    step = _Step(rows[-1].pk if rows else replay.position, ended=len(rows) < STEP)
    index = _rules_of(replay).current()
    drafts = []
    now = database_now()
    for row in rows:
        step.counts["events"] += 1
        envelope, cause = envelope_of(row), cause_of(row.metadata)
        activation = Activation(envelope, row.channel, row.headers, row.ordering_key, now)
        candidates = index.candidates(row.tenant_id, envelope, row.channel, row.headers)
        step.counts["no_rule"] += not candidates
        for rule in candidates:
            answer = evaluate(rule, activation)
            if isinstance(answer, NotFired):
                step.counts["not_fired"] += 1
            else:
                drafts.append(
                    Draft(
                        rule,
                        answer,
                        row.tenant_id,
                        row.pk,
                        envelope,
                        row.channel,
                        root_event_id=cause.root_event_id,
                        depth=row.depth,
                        chain=cause.chain,
                    )
                )
    if replay.dry_run:
        for draft in drafts:
            _try_out(draft, step, now)
    elif drafts:
        with connection.cursor() as cursor:
            _, _, firing_ids = statements().take_ids(cursor, events=0, firings=len(drafts))
            fired = fire(cursor, drafts, firing_ids, now=now, replay_no=replay.pk, skip=SKIPPED_BY_REPLAYS)
        step.fired.append(fired)
        step.run_ids += fired.run_ids
        for (_, outcome), count in fired.outcomes.items():
            step.counts[outcome] += count
    step.counts = +step.counts
    return step


def _next_events(replay: Replay) -> QuerySet[Event, Event]:
    chosen = replay.selection
    if "events" in chosen:
        rows = Event.objects.filter(tenant_id=replay.tenant_id, pk__in=_next_ids(chosen["events"], replay.position))
    else:
        rows = chosen_events(replay.tenant_id, event_filter(chosen.get("filter", chosen), within="filter."))
    return rows.filter(pk__gt=replay.position, pk__lte=replay.until).order_by("pk")[:STEP]


def _next_ids(ids: Sequence[int], position: int) -> list[int]:
    # Those of one step, also where some of them are gone: else a step that finds few would seem to be the last.
    return sorted(each for each in set(ids) if each > position)


def _try_out(draft: Draft, step: _Step, now: datetime) -> None:
    """Count and show what would become of a rule on an event, were it not a dry run."""
    rule, answer = draft.rule, draft.answer
    shown: dict[str, Any] = {"event_id": draft.event_id, "rule": rule.slug, "rule_version": rule.number}
    if isinstance(answer, EvaluationError):
        outcome = "error"
        shown["reason"] = f"{answer.reason} ({answer.position})"
    else:
        decision = apply_stages(rule, answer, {}, now, skip=SKIPPED_BY_REPLAYS).outcome
        outcome = "held" if isinstance(decision, Hold) else "suppressed" if isinstance(decision, Suppress) else "fired"
        shown["parameters"] = answer.rendered
        if isinstance(decision, (Hold, Suppress)):
            shown["reason"] = decision.reason
    step.counts[outcome] += 1
    step.samples.append({**shown, "outcome": outcome})


def _letter_step(replay: Replay) -> _Step:
    """Give the next dead letter to the pipeline, as if it had just come in."""
    ids = _next_ids(replay.selection["dead_letters"], replay.position)
    if not ids:
        return _Step(replay.position, ended=True)
    step = _Step(ids[0], ended=len(ids) == 1)
    rows = DeadLetter.objects.select_for_update(of=("self",)).select_related("event_source")
    row = rows.filter(tenant_id=replay.tenant_id, pk=ids[0]).first()
    step.counts["dead_letters"] += 1
    if row is None:
        _tell(step, ids[0], "unknown", "there is no such dead letter")
    elif row.state != "open":
        _tell(step, row.pk, "resolved", f"it was {row.state} before")
    elif row.reason == _DEADLY:
        _tell(step, row.pk, "refused", "its message killed the processes that read it: it can only be discarded")
    else:
        _replay_letter(replay, row, step)
    return step


def _replay_letter(replay: Replay, row: DeadLetter, step: _Step) -> None:
    renamed = f"dead-letter:{row.pk}" if row.reason in _RENAMED else None
    view = None if row.event_source is None else SourceView.of(row.event_source)
    if view is not None and renamed is not None:
        # It has an id now, which a source that requires one of the message itself would not see.
        view = replace(view, policy=replace(view.policy, id_policy="transport"))
    pipeline = Pipeline(view, cache=_rules_of(replay), tenant_id=row.tenant_id if view is None else None)
    message = _received(row, renamed)
    if row.event_source is not None:
        message = message_again(row.event_source, message)
    prepared = pipeline.prepare([message], timezone.now(), message_id=renamed)
    if replay.dry_run:
        for item in prepared.items:
            if item.problem is not None:
                _tell(step, row.pk, "dead_letter", f"{item.problem.reason}: {item.problem.error}")
            else:
                _tell(step, row.pk, "matched" if item.fires else "no_match", "")
        return
    written = pipeline.write(prepared)
    results = written.results.get(0, [])
    for result in results:
        step.counts[result.outcome] += 1
    step.run_ids += written.run_ids
    if all(result.outcome != "dead_letter" for result in results):
        event_id = next((result.event_id for result in results), None)
        words = results[0].outcome if results else "ignored"
        resolve_letter(row, "replayed", by=replay.by, reason=f"replay {replay.pk}: {words}", event_id=event_id)


def _received(row: DeadLetter, renamed: str | None) -> Received:
    """Return a dead letter as its transport had handed it over. It is not expired, however old: a person asks for it."""
    return Received(
        channel=row.channel,
        body=bytes(row.raw),
        content_type=row.headers.get("content-type", ""),
        headers=row.headers,
        part=row.part,
        off=row.off,
        message_id=renamed or row.message_id,
    )


def _tell(step: _Step, letter_id: int, outcome: str, reason: str) -> None:
    step.counts[outcome] += 1
    step.samples.append({"dead_letter": letter_id, "outcome": outcome, "reason": reason})


def _rules_of(replay: Replay) -> FixedRules:
    """Return the rules of today: those that were named, enabled or not, or all that are enabled."""
    rows = latest_versions().filter(rule__slug__in=replay.rules) if replay.rules else in_force()
    return FixedRules(compiled(list(rows.filter(rule__tenant_id=replay.tenant_id).values_list("pk", flat=True))))


def _launch(run_ids: Sequence[int]) -> None:
    """Launch after the commit, time-boxed by its size: what is not launched here the reconciler launches."""
    if not run_ids:
        return
    try:
        publish_launch(list(run_ids))
    except Exception as error:  # a broker that is away must not end the replay
        LAUNCH_FAILURES.labels(type(error).__name__).inc()
        log.warning("runs of a replay were left to the reconciler", extra={"reason": str(error)})
