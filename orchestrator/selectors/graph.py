"""The DAG of a version and the tasks of a run in it, as few and as plain values as a picture of thousands needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from orchestrator.models import Dependency, Task, TaskRun, Transition, VersionLayout
from orchestrator.states import TaskState


class GraphEdge(NamedTuple):
    """A dependency between two positions; `is_plain` if it asks for success and nothing else."""

    upstream: int
    downstream: int
    status: str
    is_plain: bool


@dataclass(frozen=True, slots=True)
class VersionGraph:
    """Tasks by position, and the edges between them."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    edges: tuple[GraphEdge, ...]


class TaskRow(NamedTuple):
    """What a list of a run's tasks shows of one."""

    position: int
    id: int
    state: str
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    reason: str
    is_carried: bool


class Change(NamedTuple):
    """What happened in a run after a cursor."""

    #: The cursor for the next question.
    cursor: int
    task_run_ids: frozenset[int]
    #: More happened than one answer takes: ask again at once.
    is_more: bool


def version_graph(version_id: int) -> VersionGraph:
    """Return the DAG of a version, in two queries."""
    tasks = list(Task.objects.filter(version_id=version_id).order_by("position").values_list("name", "type"))
    edges = Dependency.objects.filter(version_id=version_id).order_by("downstream_position", "upstream_position")
    return VersionGraph(
        tuple(name for name, _ in tasks),
        tuple(kind for _, kind in tasks),
        tuple(
            GraphEdge(up, down, status, status == "success" and not when)
            for up, down, status, when in edges.values_list(
                "upstream_position", "downstream_position", "status", "when"
            )
        ),
    )


def stored_picture(version_id: int, method: int) -> dict[str, Any] | None:
    """Return the picture that was computed by this method, if there is one."""
    rows = VersionLayout.objects.filter(version_id=version_id, method=method)
    return rows.values_list("places", flat=True).first()


def states_of_tasks(run_id: int) -> list[str]:
    """Return the states of a run's tasks by position; empty before the run was let in."""
    return list(TaskRun.objects.filter(run_id=run_id).order_by("position").values_list("state", flat=True))


def task_rows(run_id: int, ids: Collection[int] | None = None) -> list[TaskRow]:
    """Return the tasks of a run by position, or some of them."""
    rows = TaskRun.objects.filter(run_id=run_id)
    if ids is not None:
        rows = rows.filter(pk__in=ids)
    values = rows.order_by("position").values_list(
        "position", "pk", "state", "attempt_count", "started_at", "ended_at", "due_at", "reason", "carried_from_id"
    )
    return [TaskRow(*row[:8], row[8] is not None) for row in values]


def worst_tasks(run_id: int, states: Iterable[TaskState], limit: int) -> list[TaskRun]:
    """Return the first tasks of a run in one of these states, with their names."""
    rows = TaskRun.objects.filter(run_id=run_id, state__in=list(states)).select_related("task").order_by("position")
    return list(rows.only("position", "state", "reason", "due_at", "attempt_count", "task__name")[:limit])


def last_transition(run_id: int) -> int:
    """Return the id of the last transition of a run, 0 without any."""
    last = Transition.objects.filter(run_id=run_id).order_by("-id").values_list("id", flat=True).first()
    return last or 0


def changed_since(run_id: int, cursor: int, *, limit: int) -> Change:
    """Return which task runs moved after a cursor.

    A transaction that commits late may have written below the cursor: whoever keeps a copy must compare the states of
    all tasks as well.
    """
    rows = Transition.objects.filter(run_id=run_id, id__gt=cursor).order_by("id").values_list(
        "id", "subject", "subject_id"
    )  # fmt: skip
    found = list(rows[:limit])
    return Change(
        found[-1][0] if found else cursor,
        frozenset(subject_id for _, subject, subject_id in found if subject == "task_run"),
        len(found) == limit,
    )


def neighbours(version_id: int, position: int, *, limit: int) -> tuple[list[GraphEdge], list[GraphEdge]]:
    """Return the edges into and out of a task, at most `limit` of each."""
    edges = Dependency.objects.filter(version_id=version_id)

    def some(found: Iterable[tuple[int, int, str, str]]) -> list[GraphEdge]:
        return [GraphEdge(up, down, status, status == "success" and not when) for up, down, status, when in found]

    columns = ("upstream_position", "downstream_position", "status", "when")
    into = edges.filter(downstream_position=position).order_by("upstream_position").values_list(*columns)[:limit]
    out = edges.filter(upstream_position=position).order_by("downstream_position").values_list(*columns)[:limit]
    return some(into), some(out)
