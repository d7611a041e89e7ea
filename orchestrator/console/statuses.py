"""How a state is shown, everywhere: its word, its colour, its icon, and what it means for who looks at it.

A state is never told by colour alone: the word or the sign stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from orchestrator.states import AttemptState, RunState, TaskState

Kind = Literal["run", "task", "attempt"]


class Tone(StrEnum):
    """A colour by what it says. `console.css` has its shades, as `--tone-<name>-…`, for light and dark."""

    GOOD = "good"
    BAD = "bad"
    WARN = "warn"
    BUSY = "busy"
    CALM = "calm"
    FAINT = "faint"


#: The theme's own names of these colours, for its labels in lists.
THEME_LABELS: Final[Mapping[Tone, str]] = {
    Tone.GOOD: "success",
    Tone.BAD: "danger",
    Tone.WARN: "warning",
    Tone.BUSY: "info",
    Tone.CALM: "",
    Tone.FAINT: "",
}


@dataclass(frozen=True, slots=True)
class Status:
    """One state as people see it."""

    #: As the ledger writes it.
    state: str
    #: As people read it.
    word: str
    tone: Tone
    #: Name of a symbol of the theme's icon font.
    icon: str
    #: One character that says the same where no icon font reaches, such as in a drawing.
    sign: str
    #: What it means, in one sentence.
    help: str
    #: Its letter in compact answers; unique among the states of its kind.
    letter: str
    #: What an operator looks at first comes first.
    urgency: int


def _table(*rows: Status) -> Mapping[str, Status]:
    return {row.state: row for row in rows}


RUN_STATUSES: Final = _table(
    Status(RunState.PENDING, "pending", Tone.CALM, "hourglass_empty", "◌",
           "Recorded; waits to be let in.", "p", 3),
    Status(RunState.RUNNING, "running", Tone.BUSY, "play_circle", "▶",
           "Let in; its tasks start as their dependencies open.", "r", 2),
    Status(RunState.SUCCEEDED, "succeeded", Tone.GOOD, "check_circle", "✓",
           "Every task came to a good end.", "s", 5),
    Status(RunState.FAILED, "failed", Tone.BAD, "error", "✕",
           "At least one task failed, and nothing made up for it.", "f", 0),
    Status(RunState.CANCELLED, "cancelled", Tone.WARN, "cancel", "⊘",
           "Ended by a person, or refused by its job's rules.", "c", 4),
    Status(RunState.TIMED_OUT, "timed out", Tone.BAD, "timer_off", "◷",
           "Took longer than its job allows.", "t", 1),
)  # fmt: skip

TASK_STATUSES: Final = _table(
    Status(TaskState.WAITING, "waiting", Tone.FAINT, "schedule", "○",
           "A task before it has not ended yet.", "w", 7),
    Status(TaskState.READY, "ready", Tone.CALM, "pending", "◌",
           "May start: waits for its locks, a worker or a free slot.", "y", 5),
    Status(TaskState.RUNNING, "running", Tone.BUSY, "play_circle", "▶",
           "A worker executes it.", "r", 2),
    Status(TaskState.RETRY_WAITING, "retry waiting", Tone.WARN, "history", "↻",
           "An attempt failed; the next one is due later.", "a", 3),
    Status(TaskState.DEFERRED, "deferred", Tone.CALM, "more_time", "◔",
           "Waits for something outside without holding a worker.", "d", 4),
    Status(TaskState.SUCCEEDED, "succeeded", Tone.GOOD, "check_circle", "✓",
           "Came to a good end.", "s", 10),
    Status(TaskState.FAILED, "failed", Tone.BAD, "error", "✕",
           "Its last attempt failed; no further one follows.", "f", 0),
    Status(TaskState.TIMED_OUT, "timed out", Tone.BAD, "timer_off", "◷",
           "Took longer than it may.", "t", 1),
    Status(TaskState.CANCELLED, "cancelled", Tone.WARN, "cancel", "⊘",
           "Stopped by a person or with its run.", "c", 8),
    Status(TaskState.SKIPPED, "skipped", Tone.FAINT, "redo", "»",
           "Not needed: its dependencies closed, or a person skipped it.", "k", 9),
    Status(TaskState.UPSTREAM_FAILED, "upstream failed", Tone.WARN, "block", "⊗",
           "Did not run because a task before it failed.", "u", 6),
)  # fmt: skip

ATTEMPT_STATUSES: Final = _table(
    Status(AttemptState.RUNNING, "running", Tone.BUSY, "play_circle", "▶", "A worker executes it.", "r", 2),
    Status(AttemptState.SUCCEEDED, "succeeded", Tone.GOOD, "check_circle", "✓", "Came to a good end.", "s", 5),
    Status(AttemptState.FAILED, "failed", Tone.BAD, "error", "✕", "Ended with an error.", "f", 0),
    Status(AttemptState.TIMED_OUT, "timed out", Tone.BAD, "timer_off", "◷", "Took longer than it may.", "t", 1),
    Status(AttemptState.CANCELLED, "cancelled", Tone.WARN, "cancel", "⊘", "Stopped on request.", "c", 4),
    Status(AttemptState.LOST, "lost", Tone.BAD, "link_off", "⌁",
           "Its worker vanished; nobody saw how it ended.", "l", 1),
)  # fmt: skip

_TABLES: Final[Mapping[str, Mapping[str, Status]]] = {
    "run": RUN_STATUSES,
    "task": TASK_STATUSES,
    "attempt": ATTEMPT_STATUSES,
}
_WORST_FIRST: Final = {
    kind: tuple(sorted(table.values(), key=lambda status: status.urgency)) for kind, table in _TABLES.items()
}


def status_of(kind: Kind, state: str) -> Status:
    """Return how a state is shown; one that this version does not know keeps its own word."""
    known = _TABLES[kind].get(state)
    return known or Status(state, state.replace("_", " "), Tone.CALM, "help", "?", "", "?", 99)


def worst_first(kind: Kind) -> tuple[Status, ...]:
    """Return all states of a kind in the order in which an operator wants to see them."""
    return _WORST_FIRST[kind]


def letters(states: Iterable[str]) -> str:
    """Write states of tasks as one letter each."""
    return "".join([TASK_STATUSES[state].letter for state in states])


def theme_labels() -> dict[str, str]:
    """Return the theme's label colours by the word of a state, of every kind."""
    return {
        status.word: THEME_LABELS[status.tone]
        for table in _TABLES.values()
        for status in table.values()
        if THEME_LABELS[status.tone]
    }
