"""neighbourhood → plan → apply → compile → hints: what follows when tasks of a run have become final.

Used by settle (one task), by `advance` (all final tasks of a run that nobody planned), and by everything that ends
tasks from outside. `planned_at` makes each final task count once, on whichever path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from orchestrator.canvas.binding import Hint
from orchestrator.ledger.finish import finish_if_over
from orchestrator.ledger.start import start_tasks
from orchestrator.ledger.statements import statements
from orchestrator.ledger.statements.rows import Closing
from orchestrator.ledger.transactions import in_transaction
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import JobRun, TaskRun
from orchestrator.planning.decisions import CloseTask, StartTask
from orchestrator.planning.neighbourhood import Candidate, Neighbourhood
from orchestrator.planning.plan import plan
from orchestrator.states import TASK_FINAL, TaskState

#: Final tasks planned in one transaction: a failing root of 10,000 tasks closes level by level.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one planning step did: hints to publish after commit, and whether it closed tasks of its own."""

    hints: tuple[Hint, ...] = ()
    closed: int = 0
    #: None of the tasks that follow is open any more: the run may be over.
    dead_end: bool = False


def advance_run(run_id: int, *, headers: bool = True) -> list[Hint]:
    """Plan every final, unplanned task of a run, and finish the run if nothing is left. Safe to call twice.

    Each batch is its own transaction; the hints of all are returned for publishing. `headers=False` leaves those of
    chords to their own plan: of a chord that still runs each would be planned for itself.
    """
    hints: list[Hint] = []
    version_id = JobRun.objects.values_list("version_id", flat=True).get(pk=run_id)
    version = compiled_version(version_id)
    ended = False
    while True:
        step = in_transaction(lambda: _advance_batch(run_id, version, headers))
        if step is None:
            break
        hints.extend(step.hints)
        ended = ended or step.dead_end
    if ended:
        hints.extend(finish_if_over(run_id))
    return hints


def _advance_batch(run_id: int, version: CompiledVersion, headers: bool) -> Advanced | None:
    with connection.cursor() as cursor:
        settled = statements().take_unplanned(cursor, run_id=run_id, limit=BATCH, headers=headers)
        if not settled:
            return None
        return plan_after(
            cursor, run_id=run_id, version=version, settled={position: TaskState(state) for position, state in settled}
        )


def plan_after(
    cursor: Any, *, run_id: int, version: CompiledVersion, settled: Mapping[int, TaskState], follows: int | None = None
) -> Advanced:
    """Plan what follows tasks that have just become final, inside the caller's transaction.

    The caller has set their `planned_at` in this transaction. `follows` is the task run whose message Celery publishes by itself
    as the next link of a chain. Locks the waiting tasks downstream, by id.
    """
    decided = Counter(down for position in settled for down in version.graph.downstream[position])
    if not decided:
        return Advanced(dead_end=True)
    left = statements().decide_upstreams(cursor, run_id=run_id, decided=dict(sorted(decided.items())))
    return plan_decided(cursor, run_id=run_id, version=version, settled=settled, left=left, follows=follows)


def plan_decided(
    cursor: Any,
    *,
    run_id: int,
    version: CompiledVersion,
    settled: Mapping[int, TaskState],
    left: Sequence[tuple[int, int]],
    follows: int | None = None,
) -> Advanced:
    """Plan what follows, where the caller's transaction has lowered the counters of the waiting tasks: `left`."""
    graph = version.graph
    if not left:
        # All were decided before: by a failure beside this task, an `any` join, or a cancellation.
        return Advanced(dead_end=True)
    # Without this the first 499 successes of a wide join would each look at all of its edges.
    counted = version.plain_joins if all(s == TaskState.SUCCEEDED for s in settled.values()) else frozenset()
    candidates = [
        Candidate(position, version.tasks[position].join, graph.dependencies[position])
        for position, open_upstreams in left
        if open_upstreams <= 0 or (position not in counted and _may_decide_early(position, version, settled))
    ]
    if not candidates:
        return Advanced()
    near = _neighbourhood(cursor, run_id=run_id, version=version, candidates=candidates, settled=settled)
    return apply(cursor, run_id=run_id, version=version, near=near, follows=follows)


def apply(
    cursor: Any, *, run_id: int, version: CompiledVersion, near: Neighbourhood, follows: int | None = None
) -> Advanced:
    """Write the planner's decisions: compare-and-set from `waiting`, with their transitions."""
    decisions = plan(near)
    closings = [Closing(d.position, d.state, d.reason[:500]) for d in decisions if isinstance(d, CloseTask)]
    if closings:
        statements().close(cursor, run_id=run_id, closings=closings)
    ready = [d.position for d in decisions if isinstance(d, StartTask)]
    hints = start_tasks(cursor, run_id=run_id, version=version, ready=ready, follows=follows) if ready else ()
    return Advanced(hints=tuple(hints), closed=len(closings), dead_end=bool(closings) and not ready)


def _may_decide_early(position: int, version: CompiledVersion, settled: Mapping[int, TaskState]) -> bool:
    """Whether a task with open upstreams may be decided all the same: an `any` join, or a dependency that may close.

    A plain success opens a dependency on success; that decides an `all` join only with the last one.
    """
    if version.tasks[position].join == "any":
        return True
    return any(
        edge.upstream in settled
        and (bool(edge.when) or edge.status != "success" or settled[edge.upstream] != TaskState.SUCCEEDED)
        for edge in version.graph.dependencies[position]
    )


def _neighbourhood(
    cursor: Any,
    *,
    run_id: int,
    version: CompiledVersion,
    candidates: Iterable[Candidate],
    settled: Mapping[int, TaskState],
) -> Neighbourhood:
    """Load what the planner needs: one query for unknown upstream states, and what conditions read only if any."""
    candidates = tuple(candidates)
    edges = [edge for candidate in candidates for edge in candidate.edges]
    states = dict(settled)
    unknown = sorted({edge.upstream for edge in edges} - states.keys())
    if unknown:
        states.update(
            (position, TaskState(state))
            for position, state in statements().states_of(cursor, run_id=run_id, positions=unknown)
        )
    names = {edge.upstream: version.graph.names[edge.upstream] for edge in edges}
    conditional = sorted({edge.upstream for edge in edges if edge.when and states[edge.upstream] in TASK_FINAL})
    if not conditional:
        return Neighbourhood(candidates, states, names)
    run = JobRun.objects.only("parameters", "event").get(pk=run_id)
    results = dict(TaskRun.objects.filter(run_id=run_id, position__in=conditional).values_list("position", "result"))
    return Neighbourhood(candidates, states, names, results, run.parameters, run.event)
