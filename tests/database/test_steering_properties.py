"""Random jobs, mistreated messages, and people who cancel, pause, resume, skip, mark and run again in between.

A small model says of each command whether it takes effect, changes nothing, or by which word it is refused. What the
run then becomes is judged by the reference of `test_engine_properties`; of a re-run a second small model, written from
the docs alone, says which tasks wait anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from orchestrator.dag.spec import ConcurrencySpec, JobSpec
from orchestrator.errors import NothingToRerun, RunFinal, RunOpen, TaskFinal, TaskIsRunning, UpbeatError
from orchestrator.ledger.claims import Claimed
from orchestrator.models import Attempt, Job, JobRun, LockRequest, TaskRun, Transition
from orchestrator.services.attempts import AttemptEnd
from orchestrator.services.runs import cancel_run, pause_run, resume_run
from orchestrator.services.steering import mark_task, rerun, skip_task
from orchestrator.states import RUN_FINAL, TASK_FINAL
from tests.database.test_engine_properties import (
    Chaos,
    Scenario,
    check_facts,
    endings_of,
    ledger_of,
    run_ends,
    scenarios,
)
from tests.support.factories import age, job_of, run_of, task_of
from tests.support.simulation import Broker, result_of

pytestmark = pytest.mark.django_db(transaction=True)

BAD = {"failed", "timed_out", "cancelled", "upstream_failed"}
BY_HAND = {"skip": (skip_task, "skipped"), "mark": (mark_task, "succeeded")}


def repeated_tasks(spec: JobSpec, states: Mapping[str, str], start: Any, mark: Mapping[str, str]) -> set[str]:
    """The tasks that a re-run runs again: those asked for and all that follow, without those that are marked."""
    if start == "start":
        again = set(states)
    elif start == "failed":
        again = {name for name, state in states.items() if state in BAD}
    else:
        again = set(start)
    again |= {name for name, state in mark.items() if states[name] != state}
    while following := {
        task.name for task in spec.tasks if task.name not in again and again & {edge.task for edge in task.depends_on}
    }:
        again |= following
    return again - mark.keys()


class Steered(Chaos):
    """A run under people's commands, and what they must have done to it."""

    def __init__(self, broker: Broker, scenario: Scenario) -> None:
        super().__init__(broker, scenario)
        #: Tasks that a person ended, in this run or when it was started, or that it took over.
        self.given: dict[str, str] = {}
        self.is_paused = False
        self.is_cancelled = False
        self.is_second = False

    def play(self) -> None:
        waits = 0
        while self.state() not in RUN_FINAL or not self.is_planned():
            if self.random.random() < 0.2:
                self.command()
            if self.broker.waiting:
                self.step()
                self.nothing_is_late()
                continue
            waits += 1
            assert waits < 200, f"the run does not end: {self.tasks()}"
            if self.is_paused and waits % 6 == 0:
                self.is_held()
                self.resume()
            age(self.run, seconds=self.random.choice([5, 20, 400]))
            self.heal()
        while self.broker.waiting:  # late messages of a run that is over
            before = ledger_of(self.run)
            self.deliver(self.broker.waiting.pop())
            assert ledger_of(self.run) == before
        self.command()

    def end_of(self, task: str, claimed: Claimed) -> AttemptEnd:
        assert not self.is_paused, "claimed in a paused run"
        assert not self.is_cancelled, "claimed in a cancelled run"
        assert task not in self.given, "claimed what a person ended"
        if self.random.random() < 0.2:
            self.command()  # while it runs
        if self.is_second and self.random.random() < 0.6:
            return result_of({"n": 9})
        return super().end_of(task, claimed)

    # --- commands, each against the model

    def command(self) -> None:
        ask = self.random.choice(
            [self.by_hand] * 6 + [self.pause, self.resume, self.resume, self.cancel, self.rerun_too_early]
        )
        ask()

    def by_hand(self) -> None:
        kind = self.random.choice(sorted(BY_HAND))
        command, to = BY_HAND[kind]
        name = self.random.choice(sorted(self.by_name))
        row = task_of(self.run, name)

        def act(by: str = "ada") -> None:
            command(row.pk, by=by, reason="for a reason")

        if row.state == to:
            self.nothing_changes(act)
        elif row.state == "running":
            self.is_refused(act, TaskIsRunning)
        elif self.state() in RUN_FINAL:
            self.is_refused(act, RunFinal)
        elif row.state in TASK_FINAL:
            self.is_refused(act, TaskFinal)
        else:
            note(f"{kind} {name}, which was {row.state}")
            act()
            self.given[name] = to
            assert task_of(self.run, name).state == to
            fact = Transition.objects.get(subject="task_run", subject_id=row.pk, to_state=to)
            assert (fact.from_state, fact.cause, fact.by) == (row.state, kind, "ada")
            assert "for a reason" in fact.reason
            assert not Attempt.objects.filter(task_run=row, state="running").exists()
            self.nothing_changes(lambda: act("bob"))

    def pause(self) -> None:
        self.on_open_run(lambda: pause_run(self.run.pk, by="ada", reason="lunch"), lambda: self.set_paused(True))

    def resume(self) -> None:
        self.on_open_run(lambda: resume_run(self.run.pk, by="ada"), lambda: self.set_paused(False))

    def set_paused(self, paused: bool) -> None:
        self.is_paused = paused
        run = JobRun.objects.get(pk=self.run.pk)
        assert ((run.paused_at is not None), run.paused_by) == (paused, "ada" if paused else "")

    def cancel(self) -> None:
        if self.random.random() < 0.7:
            return  # most runs are to see more than that
        if self.state() == "cancelled":
            self.nothing_changes(lambda: cancel_run(self.run.pk, by="bob"))
            return

        def cancelled() -> None:
            self.is_cancelled = True
            states = {state for state, _ in self.tasks().values()}
            assert states <= {*TASK_FINAL, "running"}
            assert self.state() == ("running" if "running" in states else "cancelled")

        self.on_open_run(lambda: cancel_run(self.run.pk, by="ada", reason="enough"), cancelled)

    def rerun_too_early(self) -> None:
        if self.state() not in RUN_FINAL:
            self.is_refused(lambda: rerun(self.run.pk, start="start", by="ada"), RunOpen)

    def on_open_run(self, act: Callable[[], Any], then: Callable[[], None]) -> None:
        if self.state() in RUN_FINAL:
            self.is_refused(act, RunFinal)
            return
        act()
        then()
        if self.state() not in RUN_FINAL:
            self.nothing_changes(act)

    def is_refused(self, act: Callable[[], Any], word: type[UpbeatError]) -> None:
        before = ledger_of(self.run), JobRun.objects.count()
        with pytest.raises(word):
            act()
        assert (ledger_of(self.run), JobRun.objects.count()) == before

    def is_held(self) -> None:
        """A run that does not go on says why."""
        run = JobRun.objects.get(pk=self.run.pk)
        assert (run.paused_by, run.pause_reason) == ("ada", "lunch")
        assert not TaskRun.objects.filter(run=run, state="running").exists()

    # --- what must have become of it

    def check(self) -> None:
        states = {name: state for name, (state, _) in self.tasks().items()}
        results = self.results()
        assert {name: states[name] for name in self.given} == self.given
        assert set(states.values()) <= TASK_FINAL
        if self.is_cancelled:
            assert self.state() == "cancelled"
        else:
            for task in self.scenario.spec.tasks:
                if task.name not in self.given:
                    assert states[task.name] in endings_of(task, states, results), f"{task.name} of {states}"
            assert self.state() == run_ends(self.scenario.spec, states, results)
        check_facts(self)

    def run_again(self) -> bool:
        """Run the run again in a random way; False if there is nothing to run again so."""
        names = sorted(self.by_name)
        states = {name: state for name, (state, _) in self.tasks().items()}
        before = {row.task.name: row for row in TaskRun.objects.filter(run=self.run).select_related("task")}
        chosen = self.random.sample(names, self.random.randint(1, min(3, len(names))))
        start: Any = self.random.choice(["start", "failed", "failed", chosen])
        marked = self.random.sample(names, self.random.choice([0, 0, 1, min(2, len(names))]))
        mark = {name: self.random.choice(["succeeded", "skipped"]) for name in marked}
        again = repeated_tasks(self.scenario.spec, states, start, mark)
        changed = {name: state for name, state in mark.items() if states[name] != state}
        note(f"run again from {start} with {mark}, ended {states}")
        if not again and not changed:
            self.is_refused(lambda: rerun(self.run.pk, start=start, mark=mark, by="ada"), NothingToRerun)
            return False

        old, was = self.run, ledger_of(self.run)
        self.run = rerun(old.pk, start=start, mark=mark, by="eve", reason="once more")
        self.given = {name: changed.get(name, states[name]) for name in names if name not in again}
        self.is_paused = self.is_cancelled = False
        self.is_second = True

        assert (self.run.rerun_of_id, ledger_of(old)) == (old.pk, was)
        for row in TaskRun.objects.filter(run=self.run).select_related("task"):
            name = row.task.name
            if name in again:
                assert row.carried_from_id is None
                assert row.attempt_count == 0
                continue
            assert row.state == self.given[name]
            if name in changed:
                assert row.carried_from_id is None
                fact = Transition.objects.get(subject="task_run", subject_id=row.pk)
                assert (fact.to_state, fact.by) == (row.state, "eve")
                assert "once more" in fact.reason
            else:
                origin = before[name]
                assert row.carried_from_id == (origin.carried_from_id or origin.pk)
                assert (row.result, row.result_ref) == (origin.result, origin.result_ref)
        return True


@pytest.mark.parametrize("wide", [False, True], ids=["any shape", "around a chord"])
@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_every_steered_run_and_re_run_ends_as_its_commands_say(broker: Broker, wide: bool, data: st.DataObject) -> None:
    scenario = data.draw(scenarios(wide=wide))
    note(f"seed {scenario.seed}")
    broker.__init__()  # type: ignore[misc]  # one fixture, many examples
    LockRequest.objects.all().delete()
    steered = Steered(broker, scenario)
    spec = JobSpec(name=f"random-{Job.objects.count()}", tasks=scenario.spec.tasks, concurrency=ConcurrencySpec())
    steered.run = run_of(job_of(spec))

    steered.play()
    steered.check()
    for _ in range(2):
        if steered.run_again():
            steered.play()
            steered.check()
