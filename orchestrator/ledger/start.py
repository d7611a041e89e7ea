"""Ready tasks leave the ledger: moved to ready, their locks asked for, packed into fragments, turned into hints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.canvas.binding import SLICE, ChordMessages, Hint, Message, chords_are_counted, label_of
from orchestrator.canvas.compile import Chain, Chord, Single, compile_ready
from orchestrator.ledger import locks
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import Start
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import Fragment, TaskRun


def start_tasks(
    cursor: Any, *, run_id: int, version: CompiledVersion, ready: Sequence[int], follows: int | None = None
) -> list[Hint]:
    """Move waiting tasks to ready, ask for their locks, and return the hints to publish after commit."""
    pieces = compile_ready(ready, graph=version.graph, tasks=version.tasks, chords=chords_are_counted())
    starts: list[Start] = []
    fragments: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if isinstance(piece, Chord):
            now = statements().database_now(cursor)
            fragment = Fragment.objects.create(run_id=run_id, size=len(piece.positions), created_at=now)
            fragments[index] = fragment.pk
            starts.extend(Start(position, True, fragment.pk, i) for i, position in enumerate(piece.positions))
        else:
            position = piece.position if isinstance(piece, Single) else piece.positions[0]
            starts.append(Start(position, hinted=not version.tasks[position].locks))
    starts.sort(key=lambda start: start.position)
    ids = statements().make_ready(cursor, run_id=run_id, starts=starts)
    locked = [(position, ids[position]) for position in ready if position in ids and version.tasks[position].locks]
    granted = locks.ask(run_id=run_id, version=version, task_runs=locked) if locked else frozenset()

    hints = locks.hints_for(granted - set(ids.values()))
    for index, piece in enumerate(pieces):
        if isinstance(piece, Chord):
            headers = [(p, ids[p]) for p in piece.positions[:SLICE] if p in ids]
            hints.append(
                ChordMessages(
                    run_id,
                    fragments[index],
                    len(piece.positions),
                    tuple(message(version, run_id, position, id) for position, id in headers),
                )
            )
            continue
        position = piece.position if isinstance(piece, Single) else piece.positions[0]
        id = ids.get(position)
        if id is None or id == follows or (version.tasks[position].locks and id not in granted):
            continue
        hint = message(version, run_id, position, id)
        if isinstance(piece, Chain):
            hint = _chain(hint, piece, version)
        hints.append(hint)
    return hints


def message(version: CompiledVersion, run_id: int, position: int, task_run_id: int) -> Message:
    """Return the hint for one task run."""
    task = version.tasks[position]
    return Message(
        run_id, task_run_id, task.pool, version.priority_of(position), label_of(version.job_name, run_id, task.name)
    )


def _chain(first: Message, piece: Chain, version: CompiledVersion) -> Message:
    rest = piece.positions[1:]
    ids = dict(TaskRun.objects.filter(run_id=first.run_id, position__in=rest).values_list("position", "id"))
    links = tuple(message(version, first.run_id, position, ids[position]) for position in rest)
    return Message(first.run_id, first.task_run_id, first.pool, first.priority, first.label, links)


def hints_of(rows: Sequence[TaskRun]) -> list[Hint]:
    """Return fresh hints for task runs that are ready or due; `run` must be loaded with each row.

    A chord's header keeps its group, so that the chord counts it once; anything else goes as a single task.
    """
    hints: list[Hint] = []
    for row in rows:
        version = compiled_version(row.run.version_id)
        hint = message(version, row.run_id, row.position, row.pk)
        if row.fragment_id is None or row.fragment_index is None:
            hints.append(hint)
        else:
            hints.append(ChordMessages(row.run_id, row.fragment_id, 0, (hint,), low=row.fragment_index, opens=False))
    return hints


def expand_fragment(fragment_id: int, low: int, high: int) -> list[Hint]:
    """Return the headers of a slice of a wide chord that are still to be run."""
    rows = list(
        TaskRun.objects.filter(fragment_id=fragment_id, fragment_index__gte=low, fragment_index__lt=high)
        .select_related("run")
        .order_by("fragment_index")
    )
    return hints_of(rows)
