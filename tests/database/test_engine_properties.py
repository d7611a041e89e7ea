"""Random DAGs × random outcomes × messages that are doubled, lost, late and out of order, against the real ledger.

The reference below is written from the contract's text alone ('Meaning of edges and joins') and shares no code with
`planning`. It judges what the engine made of a run; where the contract leaves the result to the order of events (an
`all` join ends with the first dependency that closes) it allows each result that some order gives.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from orchestrator.dag.spec import ConcurrencySpec, DependencySpec, JobSpec, RetrySpec, TaskSpec
from orchestrator.errors import StaleToken
from orchestrator.ledger import claims, versions
from orchestrator.ledger.claims import Claimed, NotClaimed
from orchestrator.models import Attempt, Job, JobRun, LockRequest, TaskRun, Transition
from orchestrator.services import attempts
from orchestrator.services.attempts import AttemptEnd
from orchestrator.services.runs import advance_run, cancel_run, launch_runs
from orchestrator.states import RUN_ARROWS, RUN_FINAL, TASK_ARROWS, TASK_FINAL, RunState, TaskState
from tests.support.factories import age, job_of, run_of
from tests.support.simulation import WORKER, Advance, Broker, Execute, Simulation, deferred, ending, heal

# Real transactions: inside a single one PostgreSQL keeps every version of every row, and slows down with each example.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _settle_without_a_plan_where_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the widest joins alone: these jobs are small."""
    monkeypatch.setattr(versions, "MANY", 1)


# --- the reference

EXECUTED = {"succeeded", "failed", "timed_out"}
Gate = Literal["open", "closed", "broken", "undecided"]


def condition(when: str | None, result: Any) -> bool | None:
    """The conditions that these tests write, without CEL; None if one cannot be evaluated."""
    if when is None:
        return True
    if not isinstance(result, dict) or "n" not in result:
        return None
    return bool(result["n"] > 5)


def gate(edge: DependencySpec, states: Mapping[str, str], results: Mapping[str, Any]) -> Gate:
    outcome = states[edge.task]
    if outcome in ("waiting", "ready", "running", "retry_waiting", "deferred"):
        return "undecided"
    if edge.status == "success":
        matches = outcome == "succeeded"
    elif edge.status == "failed":
        matches = outcome in ("failed", "timed_out")
    elif edge.status == "skipped":
        matches = outcome == "skipped"
    else:
        matches = True
    if not matches:
        return "closed"
    value = condition(edge.when, results.get(edge.task))
    if value is None:
        return "broken"
    return "open" if value else "closed"


def may_start(task: TaskSpec, states: Mapping[str, str], results: Mapping[str, Any]) -> bool:
    gates = [gate(edge, states, results) for edge in task.depends_on]
    if task.join == "any" and gates:
        return "open" in gates
    return all(one == "open" for one in gates)


def endings_of(task: TaskSpec, states: Mapping[str, str], results: Mapping[str, Any]) -> set[str]:
    """The states in which a task may have ended, its upstreams having ended as they did."""
    if may_start(task, states, results):
        return EXECUTED
    bad = {"failed", "timed_out", "cancelled", "upstream_failed"}
    closed = [(edge, gate(edge, states, results)) for edge in task.depends_on]
    closed = [(edge, one) for edge, one in closed if one != "open"]
    ends = {
        "failed" if one == "broken" else "upstream_failed" if states[edge.task] in bad else "skipped"
        for edge, one in closed
    }
    if task.join == "all":
        return ends  # whichever closed first
    return {"failed"} if "failed" in ends else {"upstream_failed"} if "upstream_failed" in ends else {"skipped"}


def run_ends(spec: JobSpec, states: Mapping[str, str], results: Mapping[str, Any]) -> str:
    for task in spec.tasks:
        if states[task.name] not in ("failed", "timed_out") or task.allow_failure:
            continue
        recovered = any(
            edge.task == task.name
            and edge.recovers
            and gate(edge, states, results) == "open"
            and states[other.name] == "succeeded"
            for other in spec.tasks
            for edge in other.depends_on
        )
        if not recovered:
            return "failed"
    return "succeeded"


# --- random jobs


@dataclass(frozen=True)
class Scenario:
    """A job, how each attempt of each task ends, and the seed of everything else that is random."""

    spec: JobSpec
    ends: Mapping[str, tuple[str, ...]]
    seed: int
    mishaps: bool
    cancelled: bool
    results: Mapping[str, int | None] = field(default_factory=dict)
    #: The seconds by which each attempt of a task is deferred, one after the other, before it ends.
    deferrals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def end_of(self, task: str, number: int) -> AttemptEnd:
        end = self.ends[task][min(number, len(self.ends[task])) - 1]
        if end != "success":
            return AttemptEnd(end, f"made to end so: {end}", 1)
        value = self.results[task]
        return AttemptEnd(result=None if value is None else json.dumps({"n": value}))


@st.composite
def scenarios(draw: st.DrawFn, *, wide: bool, cancelled: bool = False) -> Scenario:
    """`wide`: the first task fans out into four that join in the sixth, which is a chord; anything may follow."""
    count = draw(st.integers(6, 9)) if wide else draw(st.integers(1, 8))
    tasks: list[TaskSpec] = []
    ends: dict[str, tuple[str, ...]] = {}
    results: dict[str, int | None] = {}
    deferrals: dict[str, tuple[float, ...]] = {}
    for number in range(count):
        name = f"t{number}"
        join = draw(st.sampled_from(["all", "all", "any"]))
        if wide and number < 5:
            upstreams: list[int] = [0] if number else []
        elif wide and number == 5:
            upstreams, join = [1, 2, 3, 4], "all"
        else:
            before = [up for up in range(number) if not wide or up not in (1, 2, 3, 4)]
            upstreams = sorted(draw(st.sets(st.sampled_from(before), max_size=3))) if before else []
        edges = []
        for upstream in upstreams:
            status = draw(st.sampled_from(["success"] * 4 + ["failed"] * 3 + ["done", "skipped"]))
            recovers = status == "failed" and draw(st.sampled_from([True, True, False]))
            when = draw(st.sampled_from([None] * 5 + [f"results.t{upstream}.n > 5"]))
            if wide and number <= 5:
                when = None
            edges.append(DependencySpec(f"t{upstream}", status, when, recovers))
        ends[name] = tuple(
            draw(
                st.lists(
                    st.sampled_from(["success"] * 6 + ["retryable", "permanent", "timeout", "unknown"]),
                    min_size=1,
                    max_size=3,
                )
            )
        )
        results[name] = draw(st.sampled_from([None, 1, 9]))
        # Beyond the time limit too, where the timer ends it.
        deferrals[name] = draw(st.sampled_from([()] * 4 + [(30.0,), (0.0, 30.0), (2000.0,)]))
        idempotent = draw(st.booleans())
        rules = ("failed", "timeout", "unknown") if idempotent and draw(st.booleans()) else ("failed",)
        tasks.append(
            TaskSpec(
                name,
                "noop",
                depends_on=tuple(edges),
                join=join,
                retry=RetrySpec(
                    max_attempts=draw(st.integers(1, 3)), delay=draw(st.sampled_from([0.0, 30.0])), on=rules
                ),
                timeout=draw(st.sampled_from([3600.0, 3600.0, 600.0])),
                allow_failure=draw(st.sampled_from([False, False, False, True])),
                idempotent=idempotent,
                locks=() if wide and 0 < number < 5 else draw(st.sampled_from([()] * 6 + [("l1",), ("l1", "l2")])),
            )
        )
    seed = draw(st.integers(0, 2**32))
    return Scenario(
        JobSpec("random", tasks=tuple(tasks)), ends, seed, draw(st.booleans()), cancelled, results, deferrals
    )


# --- the world that mistreats messages


class Chaos(Simulation):
    """Delivers in random order; drops, doubles and repeats; now and then a worker vanishes with its attempt."""

    def __init__(self, broker: Broker, scenario: Scenario) -> None:
        super().__init__(broker)
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.by_name = {task.name: task for task in scenario.spec.tasks}
        self.run: JobRun
        self.vanished: set[int] = set()
        #: How often each attempt was deferred.
        self.deferred: Counter[int] = Counter()

    def play(self) -> None:
        """Run the scenario to its end."""
        waits = 0
        while self.state() not in RUN_FINAL or not self.is_planned():
            if self.broker.waiting:
                self.step()
                self.nothing_is_late()
                continue
            # Nothing is under way: time passes and the reconciler looks.
            waits += 1
            assert waits < 120, f"the run does not end: {self.tasks()}"
            age(self.run, seconds=self.random.choice([5, 20, 400]))
            self.heal()
        while self.broker.waiting:  # late messages of a run that is over
            before = ledger_of(self.run)
            self.deliver(self.broker.waiting.pop())
            assert ledger_of(self.run) == before

    def step(self) -> None:
        waiting = self.broker.waiting
        delivery = waiting.pop(self.random.randrange(len(waiting)))
        if self.scenario.mishaps:
            luck = self.random.random()
            if luck < 0.1:
                return  # lost
            if luck < 0.2:
                waiting.append(delivery)  # doubled
        if self.scenario.cancelled and self.random.random() < 0.15:
            cancel_run(self.run.pk, by="ada")
            self.nothing_changes(lambda: cancel_run(self.run.pk, by="bob"))
        if isinstance(delivery, Execute):
            self.attempt(delivery)
        else:
            self.deliver(delivery)
            if isinstance(delivery, Advance):
                self.nothing_changes(lambda: advance_run(self.run.pk))
        if self.random.random() < 0.1:
            self.nothing_changes(lambda: launch_runs([self.run.pk]))
        if self.random.random() < 0.1:
            self.heal()
            self.nothing_changes(self.heal)

    def attempt(self, delivery: Execute) -> None:
        message = delivery.message
        before = self.tasks()
        claimed = attempts.claim_task_run(message.task_run_id, worker=WORKER)
        if claimed is NotClaimed.NOT_NOW:
            return
        if not isinstance(claimed, Claimed):
            self.finish(delivery)
            return
        task = self.by_name[attempts.task_of(claimed).name]
        states = {name: state for name, (state, _) in before.items()}
        assert may_start(task, states, self.results()), f"{task.name} started too early: {states}"
        self.nothing_changes(lambda: claims.claim(task_run_id=claimed.task_run_id, worker="other"))
        if self.scenario.mishaps and self.random.random() < 0.08:
            self.vanish(claimed)
            return
        follows = message.chain[0].task_run_id if message.chain else None
        end = self.end_of(task.name, claimed)
        final = attempts.settle_attempt(claimed, end, worker=WORKER, follows=follows)
        if self.random.random() < 0.3:
            self.settle_again(claimed, end)
        if final:
            self.finish(delivery)

    def end_of(self, task: str, claimed: Claimed) -> AttemptEnd:
        """How this stint of an attempt ends: deferred as often as the scenario says, then over."""
        deferrals, done = self.scenario.deferrals[task], self.deferred[claimed.attempt_id]
        begun = Attempt.objects.get(pk=claimed.attempt_id)
        assert (begun.number, begun.token) == (claimed.number, claimed.token)
        assert claimed.timeout_seconds >= claimed.elapsed_seconds
        if done == len(deferrals):
            return self.scenario.end_of(task, claimed.number)
        self.deferred[claimed.attempt_id] += 1
        return deferred(deferrals[done])

    def vanish(self, claimed: Claimed) -> None:
        """The worker dies with its claim; its lease expires, and what it says later is not heard."""
        self.vanished.add(claimed.task_run_id)
        age(self.run, seconds=16)
        self.heal()
        with pytest.raises(StaleToken):
            claims.settle(claimed, ending(claimed), worker=WORKER)

    def heal(self) -> None:
        # Healing a stuck run would hide a defect of the planner.
        assert "stuck" not in heal()

    def settle_again(self, claimed: Claimed, end: AttemptEnd) -> None:
        written = Attempt.objects.get(pk=claimed.attempt_id)
        if written.failure_kind != end.failure:
            return  # a stop made another outcome of it
        self.nothing_changes(lambda: attempts.settle_attempt(claimed, end, worker=WORKER))

    def nothing_changes(self, repeat: Any) -> None:
        before = ledger_of(self.run)
        repeat()
        assert ledger_of(self.run) == before

    def nothing_is_late(self) -> None:
        """What planned upstreams decide is decided: no task waits for events that cannot change anything."""
        rows = list(TaskRun.objects.filter(run=self.run).values_list("task__name", "state", "planned_at", "result"))
        states = {name: state for name, state, _, _ in rows}
        results = {name: result for name, _, _, result in rows}
        planned = {name for name, _, planned_at, _ in rows if planned_at}
        for name in (name for name, state in states.items() if state == "waiting"):
            task = self.by_name[name]
            gates = {gate(edge, states, results) for edge in task.depends_on if edge.task in planned}
            late = {"open"} if task.join == "any" else {"closed", "broken"}
            assert not gates & late, f"{name} waits though {gates}: {states}"

    def state(self) -> RunState:
        return RunState(JobRun.objects.values_list("state", flat=True).get(pk=self.run.pk))

    def is_planned(self) -> bool:
        return not TaskRun.objects.filter(run=self.run, planned_at=None).exists()

    def tasks(self) -> dict[str, tuple[str, int]]:
        rows = TaskRun.objects.filter(run=self.run).values_list("task__name", "state", "open_upstreams")
        found = {name: (state, left) for name, state, left in rows}
        assert all(left >= 0 for _, left in found.values())
        return found

    def results(self) -> dict[str, Any]:
        return dict(TaskRun.objects.filter(run=self.run).values_list("task__name", "result"))


def ledger_of(run: JobRun) -> list[Any]:
    """Everything that is written of a run."""
    return [
        list(JobRun.objects.filter(pk=run.pk).values()),
        list(TaskRun.objects.filter(run=run).order_by("id").values()),
        list(Attempt.objects.filter(task_run__run=run).order_by("id").values()),
        list(LockRequest.objects.filter(task_run__run=run).order_by("lock_id").values("lock", "granted_at")),
        list(Transition.objects.filter(run_id=run.pk).order_by("id").values()),
    ]


def played(broker: Broker, scenario: Scenario) -> Chaos:
    note(f"seed {scenario.seed}")
    broker.__init__()  # type: ignore[misc]  # one fixture, many examples
    LockRequest.objects.all().delete()
    chaos = Chaos(broker, scenario)
    job = job_of(
        JobSpec(name=f"random-{Job.objects.count()}", tasks=scenario.spec.tasks, concurrency=ConcurrencySpec())
    )
    chaos.run = run_of(job)
    chaos.play()
    return chaos


def check_facts(chaos: Chaos) -> None:
    """Every change of state has its fact, and the facts of each subject make one unbroken path along the arrows."""
    paths: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for fact in Transition.objects.filter(run_id=chaos.run.pk).order_by("id"):
        paths.setdefault((fact.subject, fact.subject_id), []).append((fact.from_state, fact.to_state))
    for row in TaskRun.objects.filter(run=chaos.run):
        if row.carried_from_id is not None:
            assert ("task_run", row.pk) not in paths, "nothing happened to it in this run"
            continue
        path = paths[("task_run", row.pk)]
        assert path[0][0] == "waiting"
        assert path[-1][1] == row.state
        assert all(TaskState(new) in TASK_ARROWS[TaskState(old)] for old, new in path)
    path = paths[("run", chaos.run.pk)]
    assert path[0] == ("", "pending")
    assert path[-1][1] == chaos.state()
    assert all(old == new or RunState(new) in RUN_ARROWS[RunState(old)] for old, new in path[1:])
    for path in paths.values():
        assert all(before[1] == after[0] for before, after in itertools.pairwise(path)), path
    assert not Attempt.objects.filter(task_run__run=chaos.run, state="running").exists()
    assert not LockRequest.objects.filter(task_run__run=chaos.run, release_at=None).exists()


EXAMPLES = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("wide", [False, True], ids=["any shape", "around a chord"])
@EXAMPLES
@given(data=st.data())
def test_every_run_ends_as_the_contract_says(broker: Broker, wide: bool, data: st.DataObject) -> None:
    scenario = data.draw(scenarios(wide=wide))
    chaos = played(broker, scenario)

    states = {name: state for name, (state, _) in chaos.tasks().items()}
    results = chaos.results()
    for task in scenario.spec.tasks:
        assert states[task.name] in endings_of(task, states, results), f"{task.name} of {states}"
    for row in TaskRun.objects.filter(run=chaos.run, state__in=EXECUTED, attempt_count__gt=0).select_related("task"):
        attempt = Attempt.objects.get(task_run=row, number=row.attempt_count)
        if attempt.reason.startswith("timed out after"):
            assert chaos.deferred[attempt.pk], "only what waits outside a worker is ended by the timer"
            assert row.state == "timed_out"
        elif row.pk not in chaos.vanished:
            end = scenario.end_of(row.task.name, row.attempt_count).failure
            assert row.state == {"": "succeeded", "timeout": "timed_out"}.get(end, "failed")
    assert chaos.state() == run_ends(scenario.spec, states, results)
    check_facts(chaos)


@pytest.mark.parametrize("wide", [False, True], ids=["any shape", "around a chord"])
@settings(EXAMPLES, max_examples=12)
@given(data=st.data())
def test_a_run_cancelled_at_any_moment_ends_and_leaves_nothing_behind(
    broker: Broker, wide: bool, data: st.DataObject
) -> None:
    chaos = played(broker, data.draw(scenarios(wide=wide, cancelled=True)))

    assert all(state in TASK_FINAL for state, _ in chaos.tasks().values())
    if JobRun.objects.get(pk=chaos.run.pk).stop_requested_at is not None:
        assert chaos.state() == RunState.CANCELLED
    check_facts(chaos)
