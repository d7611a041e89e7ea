"""What the browser draws a DAG from: names, types, places and edges in compact lists."""

from __future__ import annotations

from typing import Any

from orchestrator.console import layout
from orchestrator.console.statuses import TASK_STATUSES
from orchestrator.selectors.graph import TaskRow, VersionGraph, stored_picture, version_graph
from orchestrator.services.layouts import keep_layout

#: Part of the address of a drawing, beside the version: browsers keep it for ever.
FORMAT = f"{layout.METHOD}.2"
#: A reason in a list; all of it stands in the panel of the task.
REASON_SHOWN = 120


def drawing_of(version_id: int) -> dict[str, Any]:
    """Return the drawing of a version. Its layout is computed when somebody first looks at it, and stored."""
    graph = version_graph(version_id)
    return {
        "names": graph.names,
        "types": graph.types,
        **picture_of(version_id, graph),
        # Upstream, downstream, and what it waits for where that is not plain success.
        "edges": [
            [edge.upstream, edge.downstream] if edge.is_plain else [edge.upstream, edge.downstream, edge.status]
            for edge in graph.edges
        ],
        "size": [layout.WIDTH, layout.HEIGHT],
    }


def picture_of(version_id: int, graph: VersionGraph) -> dict[str, Any]:
    """Return the stored picture of a version, or compute and store it."""
    stored = stored_picture(version_id, layout.METHOD)
    if stored is not None:
        return stored
    found = layout.layout(len(graph.names), [(edge.upstream, edge.downstream) for edge in graph.edges])
    picture = {
        "places": [list(place) for place in found.places],
        "bends": {str(index): [list(place) for place in around] for index, around in found.bends.items()},
    }
    keep_layout(version_id, method=layout.METHOD, picture=picture)
    return picture


def compact(row: TaskRow) -> list[Any]:
    """Write a task for the browser: position, id, letter, attempts, started, ended, due (ms), reason, carried.

    What is empty at the end is left out.
    """
    moments = [round(at.timestamp() * 1000) if at else 0 for at in (row.started_at, row.ended_at, row.due_at)]
    reason = row.reason if len(row.reason) <= REASON_SHOWN else row.reason[: REASON_SHOWN - 1] + "…"
    found: list[Any] = [row.position, row.id, TASK_STATUSES[row.state].letter, row.attempts, *moments, reason]
    found.append(1 if row.is_carried else 0)
    while not found[-1]:
        found.pop()
    return found


def legend() -> dict[str, list[Any]]:
    """Return for each letter what the browser shows: state, word, tone, icon, sign, urgency."""
    return {
        status.letter: [status.state, status.word, status.tone, status.icon, status.sign, status.urgency]
        for status in TASK_STATUSES.values()
    }
