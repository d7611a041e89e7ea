"""What a run tells an operator at one glance: what is wrong, what it waits for, what to do. Built from plain facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.console.statuses import TASK_STATUSES, Status, Tone, worst_first
from orchestrator.states import RunState, TaskState

#: Tasks that the story names; the list below it has them all.
NAMED: Final = 5
FAILING: Final = (TaskState.FAILED, TaskState.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class TaskFact:
    """A task that the story names, with the ledger's reason."""

    name: str
    state: str
    reason: str
    due_at: datetime | None = None

    @property
    def status(self) -> Status:
        return TASK_STATUSES[self.state]


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that a person can do now: the words of the button, and the command or the task to open."""

    words: str
    command: str = ""
    query: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """How many tasks are in a state, for the bar and its legend."""

    status: Status
    count: int
    percent: float


@dataclass(frozen=True, slots=True)
class Story:
    """The first thing that is read on the page of a run."""

    headline: str
    tone: Tone
    named: tuple[TaskFact, ...]
    #: How many more there are than `named`.
    unnamed: int
    advice: tuple[Advice, ...]


def shares(states: Sequence[str], task_count: int) -> tuple[Share, ...]:
    """Return the states of a run's tasks, worst first; before it was let in all of them wait."""
    counts = Counter(states) if states else Counter({TaskState.WAITING.value: task_count})
    total = sum(counts.values()) or 1
    return tuple(
        Share(status, counts[status.state], 100 * counts[status.state] / total)
        for status in worst_first("task")
        if counts[status.state]
    )


def story_of(
    *,
    state: str,
    reason: str,
    is_paused: bool,
    is_stopping: bool,
    counts: Mapping[str, int],
    failing: Sequence[TaskFact],
    retrying: Sequence[TaskFact] = (),
) -> Story:
    """Tell a run's story. `failing` and `retrying` are the first few tasks in those states; `counts` is of all states."""
    failed = sum(counts.get(each, 0) for each in FAILING)
    retries = counts.get(TaskState.RETRY_WAITING, 0)
    blocked = counts.get(TaskState.UPSTREAM_FAILED, 0)
    named = tuple(failing[:NAMED])
    unnamed = failed - len(named)
    if state == RunState.FAILED:
        what = _tasks(failed, "failed") if failed else "The run failed"
        behind = f"; {_count(blocked, 'task')} behind {'it' if failed == 1 else 'them'} did not run" if blocked else ""
        return Story(f"{what}{behind}.", Tone.BAD, named, unnamed, _after(named))
    if state == RunState.TIMED_OUT:
        return Story(f"The run took longer than it may{_because(reason)}.", Tone.BAD, named, unnamed, _after(named))
    if state == RunState.CANCELLED:
        return Story(f"The run was cancelled{_because(reason)}.", Tone.WARN, named, unnamed, _after(named))
    if state == RunState.SUCCEEDED:
        if failed:
            made_up = f"All went well in the end; {_tasks(failed, 'failed', lower=True)}, which the job allows or makes up for."
            return Story(made_up, Tone.GOOD, named, unnamed, ())
        skipped = counts.get(TaskState.SKIPPED, 0)
        without = f"; {_count(skipped, 'task')} {'was' if skipped == 1 else 'were'} skipped" if skipped else ""
        return Story(f"Every task came to a good end{without}.", Tone.GOOD, (), 0, ())
    if state == RunState.PENDING:
        return Story("The run waits to be let in.", Tone.CALM, (), 0, ())
    if is_stopping:
        return Story("The run was asked to stop and ends with its running tasks.", Tone.WARN, named, unnamed, ())
    if failed:
        goes_on = "the run goes on with what does not need " + ("it" if failed == 1 else "them")
        advice = (Advice(f"See why {named[0].name} failed", task=named[0].name),) if named else ()
        return Story(f"{_tasks(failed, 'failed')}; {goes_on}.", Tone.BAD, named, unnamed, advice)
    if is_paused:
        return Story("The run is paused: no further task starts.", Tone.WARN, (), 0, ())
    if retries:
        named = tuple(retrying[:NAMED])
        headline = f"{_tasks(retries, 'failed')} and will be tried again."
        return Story(headline, Tone.WARN, named, retries - len(named), ())
    running = counts.get(TaskState.RUNNING, 0)
    if running:
        return Story(f"{_count(running, 'task')} {'runs' if running == 1 else 'run'} now.", Tone.BUSY, (), 0, ())
    if counts.get(TaskState.READY, 0):
        ready = counts[TaskState.READY]
        return Story(
            f"{_count(ready, 'task')} may start and {'waits' if ready == 1 else 'wait'}.", Tone.CALM, (), 0, ()
        )
    return Story("No task runs at this moment.", Tone.CALM, (), 0, ())


def _after(named: Sequence[TaskFact]) -> tuple[Advice, ...]:
    again = Advice("Run again from what failed", command="rerun", query="from=failed")
    return (Advice(f"See why {named[0].name} failed", task=named[0].name), again) if named else (again,)


def _because(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tasks(number: int, verb: str, *, lower: bool = False) -> str:
    if number == 1:
        return f"{'one' if lower else 'One'} task {verb}"
    return f"{number} tasks {verb}"
