"""Jobs from drawings.

    extract -> transform -> load            a chain
    start -> part*5 -> end                  part_1 … part_5 side by side
    a, b -[failed]-> alarm                  a status: failed, done, skipped
    a -[failed recovers]-> fallback         forgives `a` once `fallback` succeeded
    a -[when: results.a.n > 5]-> b          a condition, after the status if there is one
    end: join=any allow_failure             options of tasks, see OPTIONS

Lines, or parts divided by `;`. A task exists once it is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.dag.graph import Graph
from orchestrator.dag.spec import DependencySpec, JobSpec, RetrySpec, TaskSpec

ARROW = re.compile(r"\s*-(?:\[(?P<label>.*?)\]-)?>\s*")

OPTIONS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "join": lambda text: {"join": text},
    "allow_failure": lambda _: {"allow_failure": True},
    "idempotent": lambda _: {"idempotent": True},
    "locks": lambda text: {"locks": tuple(sorted(text.split(",")))},
    "attempts": lambda text: {"retry": {"max_attempts": int(text)}},
    "delay": lambda text: {"retry": {"delay": float(text)}},
    "on": lambda text: {"retry": {"on": tuple(text.split(","))}},
    "timeout": lambda text: {"timeout": float(text)},
    "queue_timeout": lambda text: {"queue_timeout": float(text)},
    "pool": lambda text: {"pool": text},
    "priority": lambda text: {"priority": text},
}


def drawn(drawing: str, *, name: str = "drawn", **fields: Any) -> JobSpec:
    """Return the job of a drawing; `fields` are those of JobSpec."""
    tasks: dict[str, dict[str, Any]] = {}
    for line in re.split(r"[;\n]", drawing):
        if line.strip():
            _read(line.strip(), tasks)
    return JobSpec(
        name=name,
        tasks=tuple(
            TaskSpec(
                task,
                "noop",
                depends_on=tuple(options.pop("edges")),
                retry=RetrySpec(**options.pop("retry", {})),
                **options,
            )
            for task, options in tasks.items()
        ),
        **fields,
    )


def graph_of(drawing: str) -> tuple[Graph, tuple[TaskSpec, ...]]:
    """Return the graph of a drawing and its tasks by position, as the compiler takes them."""
    graph = Graph.of(drawn(drawing))
    return graph, graph.tasks


def _read(line: str, tasks: dict[str, dict[str, Any]]) -> None:
    if not ARROW.search(line):
        names, _, options = line.partition(":")
        for name in _names(names):
            _apply(options.split(), tasks.setdefault(name, {"edges": []}))
        return
    parts = ARROW.split(line)  # names, label, names, label, names …
    upstreams: list[str] = []
    for index in range(0, len(parts), 2):
        here = _names(parts[index])
        for name in here:
            task = tasks.setdefault(name, {"edges": []})
            task["edges"] += [_edge(upstream, parts[index - 1] or "") for upstream in upstreams]
        upstreams = here


def _names(text: str) -> list[str]:
    names: list[str] = []
    for part in text.split(","):
        name, _, width = part.strip().partition("*")
        names += [f"{name}_{number}" for number in range(1, int(width) + 1)] if width else [name]
    return names


def _edge(upstream: str, label: str) -> DependencySpec:
    words, _, when = label.partition("when:")
    status: Any = "success"
    recovers = False
    for word in words.split():
        if word == "recovers":
            recovers = True
        else:
            status = word
    return DependencySpec(upstream, status, when.strip() or None, recovers)


def _apply(options: list[str], task: dict[str, Any]) -> None:
    for option in options:
        word, _, value = option.partition("=")
        for field, given in OPTIONS[word](value).items():
            task[field] = {**task.get(field, {}), **given} if isinstance(given, dict) else given
