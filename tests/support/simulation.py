"""Attempts and messages without Celery: the ledger is real, the broker is a list that a test may reorder.

`Broker` stands at one seam, where hints leave (`canvas.binding.publish`), and follows the canvas rules that the
contract tests hold Celery to: a chain goes on and a chord counts a part only when the task run is final, a part counts
once, a chord's tail is `advance`. A hint may be dropped, doubled or delivered late.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from orchestrator.canvas import binding
from orchestrator.canvas.binding import SLICE, ChordMessages, Hint, Message
from orchestrator.errors import StaleToken
from orchestrator.ledger import claims, reconciler
from orchestrator.ledger.claims import NotClaimed
from orchestrator.ledger.statements.rows import Claimed, Ending
from orchestrator.models import JobRun
from orchestrator.services import attempts, runs
from orchestrator.services.attempts import AttemptEnd
from tests.support.factories import task_of

SUCCESS = AttemptEnd()
FAILURE = AttemptEnd("retryable", "exit code 1", 1)
PERMANENT = AttemptEnd("permanent", "bad config")
TIMEOUT = AttemptEnd("timeout", "took longer than allowed")
UNKNOWN = AttemptEnd("unknown", "sent, no answer")
WORKER = "worker-1/1.1"


def deferred(seconds: float = 60.0) -> AttemptEnd:
    """Not over: the attempt goes on later."""
    return AttemptEnd(reason="waits", defer_seconds=seconds)


def result_of(value: Any) -> AttemptEnd:
    """Success with an inline result."""
    return AttemptEnd(result=json.dumps(value))


@dataclass(frozen=True, slots=True)
class Execute:
    """A message for a worker. `fragment` is the chord that counts it."""

    message: Message
    fragment: int | None = None


@dataclass(frozen=True, slots=True)
class Expand:
    fragment: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Advance:
    run_id: int


@dataclass(frozen=True, slots=True)
class Launch:
    run_ids: tuple[int, ...]


Delivery = Execute | Expand | Advance | Launch


@dataclass
class Broker:
    """What was published and not yet delivered, and the chords' counters."""

    waiting: list[Delivery] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    parts: dict[int, set[int]] = field(default_factory=dict)
    runs_of_fragments: dict[int, int] = field(default_factory=dict)
    #: Everything published, in order, for tests that look at it.
    published: list[Hint] = field(default_factory=list)

    def publish(self, hints: Sequence[Hint]) -> bool:
        for hint in hints:
            self.published.append(hint)
            if isinstance(hint, Message):
                self.waiting.append(Execute(hint))
                continue
            self.runs_of_fragments[hint.fragment_id] = hint.run_id
            if hint.opens:
                self.sizes[hint.fragment_id] = hint.size
            self.waiting += [Execute(header, hint.fragment_id) for header in hint.headers]
            done = hint.low + len(hint.headers)
            if hint.opens:
                self.waiting += [
                    Expand(hint.fragment_id, low, min(low + SLICE, hint.size)) for low in range(done, hint.size, SLICE)
                ]
        return True

    def launch(self, run_ids: Sequence[int]) -> bool:
        self.waiting.append(Launch(tuple(run_ids)))
        return True

    def depth(self, pool: str) -> int:
        return sum(isinstance(one, Execute) and one.message.pool == pool for one in self.waiting)

    def count_part(self, fragment: int, task_run_id: int) -> None:
        parts = self.parts.setdefault(fragment, set())
        parts.add(task_run_id)
        if len(parts) == self.sizes.get(fragment):
            self.waiting.append(Advance(self.runs_of_fragments[fragment]))

    def hinted(self) -> list[int]:
        """The task runs that were hinted, in order; links of a chain after their first."""
        found: list[int] = []
        for hint in self.published:
            messages = hint.headers if isinstance(hint, ChordMessages) else (hint, *hint.chain)
            found += [message.task_run_id for message in messages]
        return found


Executor = Callable[[Claimed], AttemptEnd]


@dataclass
class Simulation:
    """Workers of one thread: deliver what waits, execute by a given function."""

    broker: Broker
    execute: Executor = lambda claimed: SUCCESS

    def deliver(self, delivery: Delivery) -> None:
        """Do what a worker does with one message."""
        if isinstance(delivery, Advance):
            runs.advance_run(delivery.run_id)
        elif isinstance(delivery, Expand):
            runs.expand_fragment(delivery.fragment, delivery.low, delivery.high)
        elif isinstance(delivery, Launch):
            runs.launch_runs(delivery.run_ids)
        else:
            self._attempt(delivery)

    def drain(self) -> None:
        """Deliver until nothing waits."""
        while self.broker.waiting:
            self.deliver(self.broker.waiting.pop(0))

    def _attempt(self, delivery: Execute) -> None:
        message = delivery.message
        claimed = attempts.claim_task_run(message.task_run_id, worker=WORKER)
        if claimed is NotClaimed.NOT_NOW:
            return
        if isinstance(claimed, Claimed):
            follows = message.chain[0].task_run_id if message.chain else None
            try:
                if not attempts.settle_attempt(claimed, self.execute(claimed), worker=WORKER, follows=follows):
                    return
            except StaleToken:
                return
        self.finish(delivery)

    def finish(self, delivery: Execute) -> None:
        """The canvas goes on: the next link is published, the chord counts a part."""
        message = delivery.message
        if message.chain:
            following = replace(message.chain[0], chain=message.chain[1:])
            self.broker.waiting.append(Execute(following))
        if delivery.fragment is not None:
            self.broker.count_part(delivery.fragment, message.task_run_id)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Hints go into a list: what these tests are about must hold with any broker, and with none."""
    fake = Broker()
    monkeypatch.setattr(binding, "publish", fake.publish)
    monkeypatch.setattr(binding, "publish_launch", fake.launch)
    monkeypatch.setattr(binding, "lane_depth", fake.depth)
    return fake


def claim(run: JobRun, name: str, *, worker: str = WORKER) -> Claimed:
    """Claim a task of a run; fails when it cannot be claimed."""
    claimed = claims.claim(task_run_id=task_of(run, name).pk, worker=worker)
    assert isinstance(claimed, Claimed), f"{name}: {claimed}"
    return claimed


def settle(claimed: Claimed, end: AttemptEnd = SUCCESS, *, worker: str = WORKER) -> bool:
    """Settle as a worker would, publishing what follows."""
    return attempts.settle_attempt(claimed, end, worker=worker)


def run_task(run: JobRun, name: str, end: AttemptEnd = SUCCESS) -> bool:
    """One attempt from claim to outcome; returns whether the task run is final."""
    return settle(claim(run, name), end)


def ending(claimed: Claimed, end: AttemptEnd = SUCCESS) -> Ending:
    """What the ledger is asked to write for an outcome."""
    return attempts.ending_of(claimed, attempts.task_of(claimed), end, jitter=0.0)


def heal(*, may_expire: bool = True) -> dict[str, int]:
    """One timer step and one round of the reconciler, as its leader; returns what was healed, by cause."""
    reconciler.timers(lambda: True)
    return reconciler.round_of(lambda: True, may_expire=may_expire).by_cause
