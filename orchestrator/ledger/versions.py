"""Immutable versions, compiled once per process: spec, graph, tasks by position."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

from orchestrator.dag.graph import Graph
from orchestrator.dag.spec import JobSpec, TaskSpec
from orchestrator.models import JobVersion

#: Versions kept; one of 10,000 tasks takes some 20 MB.
KEPT = 64
#: Upstreams of a join that make it worth while to settle each of them without planning first: the last one, which
#: starts it, pays one statement more, the others save three.
MANY = 4


@dataclass(frozen=True)
class CompiledVersion:
    """What a worker or planner needs of a version. Safe to share between threads: nothing in it changes."""

    id: int
    job_name: str
    spec: JobSpec
    graph: Graph
    tasks: tuple[TaskSpec, ...]

    @cached_property
    def positions(self) -> dict[str, int]:
        return {task.name: position for position, task in enumerate(self.tasks)}

    @cached_property
    def plain_joins(self) -> frozenset[int]:
        """Positions of tasks that wait for nothing but the success of all their upstreams."""
        return frozenset(
            position
            for position, edges in enumerate(self.graph.dependencies)
            if self.tasks[position].join == "all" and all(edge.status == "success" and not edge.when for edge in edges)
        )

    @cached_property
    def many_joins(self) -> frozenset[int]:
        """Positions of tasks whose success rarely starts anything: all that follows are plain joins of many."""
        many = {down for down in self.plain_joins if len(self.graph.dependencies[down]) >= MANY}
        return frozenset(
            position for position, downs in enumerate(self.graph.downstream) if downs and many.issuperset(downs)
        )

    @cached_property
    def secret_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are declared as secrets."""
        return tuple(parameter.name for parameter in self.spec.parameters if parameter.type == "secret")

    @cached_property
    def priority(self) -> int:
        return int(self.spec.priority[1])

    def priority_of(self, position: int) -> int:
        """Return 0 … 3 of a task: its own priority, else the job's."""
        return int((self.tasks[position].priority or self.spec.priority)[1])


_cache: dict[int, CompiledVersion] = {}
_lock = threading.Lock()


def compiled_version(version_id: int) -> CompiledVersion:
    """Return a version from this process's cache, or load it with one query."""
    version = _cache.get(version_id)
    if version is None:
        version = compile_version(JobVersion.objects.select_related("job").get(pk=version_id))
        with _lock:
            if len(_cache) >= KEPT:
                # The oldest: a version in use comes back with one query.
                del _cache[next(iter(_cache))]
            _cache[version_id] = version
    return version


def compile_version(version: JobVersion) -> CompiledVersion:
    spec = JobSpec.from_canonical(version.spec)
    graph = Graph.of(spec)
    by_name = {task.name: task for task in spec.tasks}
    return CompiledVersion(
        id=version.pk,
        job_name=version.job.name,
        spec=spec,
        graph=graph,
        tasks=tuple(by_name[name] for name in graph.names),
    )
