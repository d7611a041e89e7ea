"""What rules make of new events, inside the transaction that stores them: firings, and the runs of those that fire.

Rules were evaluated before, outside of any transaction. Here is decided what only the database knows: whether rule and
job are still there, what the stages remember of a key, and whether an older firing of the same order still waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from orchestrator.errors import InvalidParameters
from orchestrator.models import Tenant
from orchestrator.services.batches import RunRequest, Target, job_targets, resolve_for, start_runs
from triggers import metrics
from triggers.envelope import Envelope
from triggers.ingest.batch import Item
from triggers.ingest.counts import observe
from triggers.ingest.stages import Stages
from triggers.ingest.statements import statements
from triggers.ingest.statements.rows import FiringRow
from triggers.ingest.stored import LONGEST_CHAIN
from triggers.rules.decide import EvaluationError, Fires
from triggers.rules.rule import CompiledRule
from triggers.rules.stages import trigger_key

LONGEST_REASON: Final = 500
#: HIGH, MEDIUM, LOW of an event.
EVENT_PRIORITIES: Final[Mapping[str, int]] = {"HIGH": 1, "MEDIUM": 2, "LOW": 3}
MEDIUM: Final = 2


@dataclass(slots=True)
class Draft:
    """A rule and an event that it fires on, or whose condition could not be evaluated."""

    rule: CompiledRule
    answer: Fires | EvaluationError
    tenant_id: int
    event_id: int
    envelope: Envelope
    channel: str
    root_event_id: int | None = None
    depth: int = 0
    chain: tuple[int, ...] = ()


@dataclass(slots=True)
class Fired:
    """What became of drafts; to be counted once it is committed."""

    #: New runs, ascending.
    run_ids: list[int] = field(default_factory=list)
    #: (rule's slug, outcome) → how many.
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Seconds from an event's moment to its run.
    latencies: list[float] = field(default_factory=list)
    #: (Rule, version) whose condition cost too much: often enough, and the rule is put into quarantine.
    over_budget: Counter[tuple[int, int]] = field(default_factory=Counter)

    def count(self) -> None:
        """Add this to the metrics. Call it after the commit."""
        for (slug, outcome), count in self.outcomes.items():
            metrics.TRIGGERED.labels(slug, outcome).inc(count)
            if outcome == "error":
                metrics.RULE_ERRORS.labels(slug).inc(count)
        if self.latencies:
            observe(metrics.TRIGGER_LATENCY, self.latencies)


def drafts_of(item: Item) -> list[Draft]:
    """Return what rules made of an item, whose event has its id."""
    envelope = item.envelope
    assert envelope is not None
    return [
        Draft(
            rule,
            answer,
            item.tenant_id,
            item.event_id,
            envelope,
            item.received.channel,
            item.root_event_id,
            item.depth,
            item.chain,
        )
        for rule, answer in item.fires
    ]


def fire(
    cursor: Any,
    drafts: Sequence[Draft],
    firing_ids: Sequence[int],
    *,
    now: datetime,
    replay_no: int = 0,
    skip: Collection[str] = (),
) -> Fired:
    """Store one firing for each draft, in order, and start the runs of those that fire, inside the transaction.

    `firing_ids`: at least as many unused ids. `skip`: stages that are passed over, as a replay does. Calling it twice
    for the same event, rule and replay breaks the uniqueness of firings: the caller knows which are new.
    """
    fired = Fired()
    rows: list[FiringRow] = []
    requests: list[RunRequest] = []
    waiting: list[tuple[FiringRow, Draft]] = []
    standing = statements().lock_rules(cursor, sorted({draft.rule.rule_id for draft in drafts}))
    jobs = Jobs({draft.rule.version_id: draft.rule for draft in drafts}.values(), now)
    stages = Stages(cursor, drafts, standing, now=now, skip=skip)
    for draft, firing_id in zip(drafts, firing_ids, strict=False):
        rule, answer = draft.rule, draft.answer
        row = FiringRow(firing_id, draft.tenant_id, rule.rule_id, rule.number, draft.event_id, replay_no, now, "fired")
        rows.append(row)
        if rule.rule_id not in standing:
            row.outcome, row.reason = "error", "rule_gone: the rule was deleted before the event was stored"
        elif isinstance(answer, EvaluationError):
            row.outcome, row.reason = "error", f"{answer.reason} ({answer.position})"[:LONGEST_REASON]
            if answer.over_budget:
                fired.over_budget[rule.rule_id, rule.version_id] += 1
        elif (target := jobs.target_of(rule)) is None or target.archived:
            row.outcome, row.reason = "suppressed", "job_archived: the job of the rule starts no more runs"
        elif stages.passes(row, draft, answer):
            request = jobs.request(draft, answer, target, trigger_key(rule.rule_id, draft.event_id, replay_no))
            if isinstance(request, str):
                row.outcome, row.reason = "error", request[:LONGEST_REASON]
            else:
                requests.append(request)
                waiting.append((row, draft))
    start(requests, waiting, fired, now)
    stages.save()
    for row, draft in zip(rows, drafts, strict=True):
        fired.outcomes[draft.rule.slug, row.outcome] += 1
    statements().insert_firings(cursor, rows)
    return fired


def start(
    requests: Sequence[RunRequest], waiting: Sequence[tuple[FiringRow, Draft]], fired: Fired, now: datetime
) -> None:
    """Start runs and let their firings know them."""
    moment = now.timestamp()
    for (row, draft), started in zip(waiting, start_runs(requests), strict=True):
        if started.run_id is None:
            row.outcome, row.reason = "suppressed", "job_archived: the job was archived just now"
            continue
        row.job_run_id = started.run_id
        if started.created:
            fired.run_ids.append(started.run_id)
            fired.latencies.append(moment - draft.envelope.timestamp.timestamp())


class Jobs:
    """The jobs that rules of a batch start: looked up once, inside its transaction."""

    def __init__(self, rules: Iterable[CompiledRule], now: datetime) -> None:
        self._now = now
        self._tenants: dict[int, Tenant] = {}
        self._events: dict[int, tuple[Mapping[str, Any], bytes]] = {}
        self._targets: dict[tuple[int, str], Target] = {}
        names: dict[int, set[str]] = {}
        for rule in rules:
            names.setdefault(rule.tenant_id, set()).add(_job_name(rule))
        for tenant_id, wanted in names.items():
            for name, target in job_targets(tenant_id, wanted).items():
                self._targets[tenant_id, name] = target

    def target_of(self, rule: CompiledRule) -> Target | None:
        """Return the job of a rule; None if there is none."""
        return self._targets.get((rule.tenant_id, _job_name(rule)))

    def request(
        self, draft: Draft, answer: Fires, target: Target, trigger_key: str, *, group_size: int = 0
    ) -> RunRequest | str:
        """Return the run to be started, or why its parameters do not fit."""
        rule, envelope, now = draft.rule, draft.envelope, self._now
        spec = rule.spec
        parameters: Any = b"{}"
        if answer.parameters or target.parameters:
            try:
                parameters = resolve_for(target, self._tenant(rule.tenant_id), answer.parameters, now)
            except InvalidParameters as error:
                details = "; ".join(f"{detail.path}: expected {detail.expected}" for detail in error.details)
                return f"invalid_parameters: {details or error}"
        priority = spec.run_priority
        concurrency = spec.concurrency
        trigger: dict[str, Any] = {
            "type": "event",
            "rule": rule.slug,
            "rule_version": rule.number,
            "event_id": draft.event_id,
            "message_id": envelope.message_id,
            "channel": draft.channel,
        }
        if group_size:
            trigger["events"] = group_size
        return RunRequest(
            tenant_id=draft.tenant_id,
            job_id=target.job_id,
            version_id=target.version_id,
            trigger_key=trigger_key,
            trigger=trigger,
            logical_date=now,
            parameters=parameters,
            event=self._event(draft.event_id, answer.event),
            priority=int(priority[1]) if priority is not None else _priority(target, envelope),
            event_id=draft.event_id,
            admission_key=answer.admission_hash,
            admission_limit=None if concurrency is None else concurrency.max,
            admission_drop=concurrency is not None and concurrency.on_exceed == "drop",
            drop_when_paused=spec.when_job_paused == "drop",
            expires_at=now + timedelta(seconds=spec.expires_seconds),
            root_event_id=draft.root_event_id or draft.event_id,
            depth=draft.depth + 1,
            rule_chain=(*draft.chain, rule.rule_id)[-LONGEST_CHAIN:],
        )

    def _event(self, event_id: int, event: Mapping[str, Any]) -> bytes:
        """Return the event as a run keeps it: made once for all rules that are given the same."""
        known = self._events.get(event_id)
        if known is not None and known[0] is event:
            return known[1]
        text = orjson.dumps(event)
        self._events[event_id] = (event, text)
        return text

    def _tenant(self, tenant_id: int) -> Tenant:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = Tenant.objects.get(pk=tenant_id)
        return tenant


def _job_name(rule: CompiledRule) -> str:
    name = rule.spec.job_name or rule.spec.own_job_name
    assert name is not None
    return name


def _priority(target: Target, envelope: Envelope) -> int:
    """The named job's, else the event's, else MEDIUM: a job that says nothing of priority has that one too."""
    if target.priority != MEDIUM:
        return target.priority
    return EVENT_PRIORITIES.get(envelope.priority, MEDIUM)
