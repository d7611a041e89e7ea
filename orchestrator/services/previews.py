"""What a command would do to a run: worked out as the command itself would, with nothing written.

A preview holds for the moment of its reading. The run goes on meanwhile, so the command looks again, and may refuse
what its preview allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import InvalidRequest, UnknownRun, UpbeatError
from orchestrator.ledger import reruns
from orchestrator.ledger.versions import CompiledVersion, compiled_version
from orchestrator.models import Job, JobRun, TaskRun
from orchestrator.planning.previews import what_follows
from orchestrator.services.steering import Start, check_rerun
from orchestrator.states import RUN_FINAL, TASK_FINAL, TASK_IDLE, RunState, TaskState

#: Tasks named in one group: more are counted, and the task list of the run has them all.
NAMED: Final = 200


@dataclass(frozen=True, slots=True)
class AffectedTask:
    """A task by name, its state now ("" before admission) and why it changes, if that is worth a word."""

    name: str
    state: str
    reason: str = ""

    @property
    def word(self) -> str:
        return _words(self.state)


@dataclass(frozen=True, slots=True)
class Effect:
    """Tasks to which the same happens. `becomes` is the state that they get, "" if none is certain."""

    title: str
    becomes: str
    count: int
    #: The first `NAMED` of them, in the order of the DAG.
    tasks: tuple[AffectedTask, ...]

    @property
    def unnamed(self) -> int:
        return self.count - len(self.tasks)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a command would do: whole sentences, then the tasks. With a `refusal` it would do nothing."""

    sentences: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    refusal: str = ""
    #: A word for a link that does what the refused command cannot, "" if nothing does.
    instead: str = ""


def preview_cancel(run_id: int) -> Preview:
    """Say what cancelling the run would end. Raises UnknownRun."""
    run = _run(run_id)
    if run.state in RUN_FINAL:
        return Preview(refusal=f"Run {run.pk} has already ended: {_words(run.state)}.")
    if run.state == RunState.PENDING:
        return Preview(("The run has not started: it ends cancelled at once, and none of its tasks runs.",))
    tasks = _tasks(run)
    running = [task for task in tasks if task.state == TaskState.RUNNING]
    idle = [task for task in tasks if task.state in TASK_IDLE]
    ended = len(tasks) - len(running) - len(idle)
    sentences = []
    if run.stop_requested_at is not None:
        sentences.append("The run was asked to stop before; asking again changes nothing.")
    if running:
        sentences.append(
            f"{_count(len(running), 'running task')} {_is(running)} asked to stop; the run ends cancelled when "
            f"{'it has' if len(running) == 1 else 'the last of them has'} ended."
        )
    else:
        sentences.append("No task runs now: the run ends cancelled at once.")
    if ended:
        sentences.append(f"{_count(ended, 'task')} that {'has' if ended == 1 else 'have'} ended {_stay(ended)}.")
    return Preview(
        tuple(sentences),
        _effects(
            ("Asked to stop", "", running),
            ("End cancelled at once", TaskState.CANCELLED, idle),
        ),
    )


def preview_pause(run_id: int) -> Preview:
    """Say what pausing the run would hold. Raises UnknownRun."""
    run = _run(run_id)
    if run.state in RUN_FINAL:
        return Preview(refusal=f"Run {run.pk} has already ended: {_words(run.state)}.")
    if run.paused_at is not None:
        return Preview(refusal=f"Run {run.pk} is paused already{f', by {run.paused_by}' if run.paused_by else ''}.")
    if run.state == RunState.PENDING:
        return Preview(("The run has not started: it does not start its tasks until it is resumed.",))
    tasks = _tasks(run)
    running = [task for task in tasks if task.state == TaskState.RUNNING]
    held = [task for task in tasks if task.state in TASK_IDLE]
    return Preview(
        (
            "Running tasks go on to their end; no further task starts until the run is resumed.",
            "Time limits of the run go on meanwhile; it can still be cancelled, and its tasks skipped or marked.",
        ),
        _effects(("Go on", "", running), ("Held until the run is resumed", "", held)),
    )


def preview_resume(run_id: int) -> Preview:
    """Say what resuming the run would let go on. Raises UnknownRun."""
    run = _run(run_id)
    if run.state in RUN_FINAL:
        return Preview(refusal=f"Run {run.pk} has already ended: {_words(run.state)}.")
    if run.paused_at is None:
        return Preview(refusal=f"Run {run.pk} is not paused.")
    if run.state == RunState.PENDING:
        return Preview(("The run has not started: it starts once its job lets it in.",))
    tasks = _tasks(run)
    ready = [task for task in tasks if task.state == TaskState.READY]
    later = [task for task in tasks if task.state in TASK_IDLE and task.state != TaskState.READY]
    return Preview(
        ("The tasks that are ready start, as workers and locks are free; the others follow in their order.",),
        _effects(("Start", TaskState.RUNNING, ready), ("Follow later", "", later)),
    )


def preview_skip(run_id: int, names: Collection[str]) -> Preview:
    """Say what skipping these tasks would end and start. Raises UnknownRun, InvalidRequest for unknown tasks."""
    return _preview_close(run_id, names, TaskState.SKIPPED)


def preview_mark(run_id: int, names: Collection[str]) -> Preview:
    """Say what marking these tasks as succeeded would start. Raises UnknownRun, InvalidRequest for unknown tasks."""
    return _preview_close(run_id, names, TaskState.SUCCEEDED)


def preview_rerun(run_id: int, *, start: Start, mark: Mapping[str, str]) -> Preview:
    """Say what running the run again would repeat, take over and mark. Raises UnknownRun, InvalidRequest."""
    run = _run(run_id)
    version = compiled_version(run.version_id)
    job = Job.objects.select_related("latest_version").only(
        "name", "archived_at", "paused_at", "latest_version__number"
    ).get(pk=run.job_id)  # fmt: skip
    trigger = {"from": start if isinstance(start, str) else list(start), "mark": dict(mark)}
    if job.archived_at is not None:
        return Preview(refusal=f"The job {job.name} is archived; it starts no more runs.")
    try:
        parts = check_rerun(run, trigger, version)
    except InvalidRequest:
        raise
    except UpbeatError as error:
        return Preview(refusal=error.message)
    states = reruns.states_of_run(run.pk)
    sentences = [
        f"A new run of version {run.version.number} starts, with the same parameters, event and logical date; "
        f"run {run.pk} stays as it is."
    ]
    latest = job.latest_version
    if latest is not None and latest.pk != run.version_id:
        sentences.append(f"The job is at version {latest.number} by now: trigger the job to run that.")
    if job.paused_at is not None:
        sentences.append("The job is paused: the new run waits until the job is resumed.")
    before = list(run.reruns.order_by("pk").values_list("pk", flat=True))
    if before:
        sentences.append(f"It has been run again before, as {', '.join(f'#{pk}' for pk in before[-5:])}.")

    def named(positions: Iterable[int]) -> list[AffectedTask]:
        return [AffectedTask(version.graph.names[position], states.get(position, "")) for position in sorted(positions)]

    marked = [position for position, state in parts.marked.items() if state == TaskState.SUCCEEDED]
    skipped = [position for position, state in parts.marked.items() if state == TaskState.SKIPPED]
    return Preview(
        tuple(sentences),
        _effects(
            ("Run again, as far as their dependencies open", "", named(parts.repeated)),
            ("Marked as succeeded instead of run", TaskState.SUCCEEDED, named(marked)),
            ("Skipped instead of run", TaskState.SKIPPED, named(skipped)),
            ("Taken over as they ended, with their results", "", named(parts.carried)),
        ),
    )


def tasks_of_run(run_id: int) -> list[AffectedTask]:
    """Return the tasks that a re-run may start from, in the order of the DAG. Raises UnknownRun."""
    run = _run(run_id)
    states = reruns.states_of_run(run_id)
    names = compiled_version(run.version_id).graph.names
    return [AffectedTask(name, states.get(position, "")) for position, name in enumerate(names)]


def _preview_close(run_id: int, names: Collection[str], to: TaskState) -> Preview:
    run = _run(run_id)
    version = compiled_version(run.version_id)
    positions = _positions(names, version)
    done = "skipped" if to == TaskState.SKIPPED else "marked as succeeded"
    if run.state in RUN_FINAL:
        return Preview(
            refusal=f"Run {run.pk} has already ended: {_words(run.state)}. A task of it can be {done} in a re-run.",
            instead="Run again with it " + done,
        )
    if run.state == RunState.PENDING or run.stop_requested_at is not None:
        said = "has not started" if run.state == RunState.PENDING else "is being stopped"
        return Preview(refusal=f"Run {run.pk} {said}: its tasks cannot be ended by hand now.")
    rows = {row.position: row for row in TaskRun.objects.filter(run=run).only("position", "state", "result")}
    states = {position: TaskState(row.state) for position, row in rows.items()}
    running = [position for position in positions if states[position] == TaskState.RUNNING]
    ended = [position for position in positions if states[position] in TASK_FINAL]
    left_alone = sorted((*running, *ended))
    positions = [position for position in positions if position not in set(left_alone)]
    if not positions and running:
        return Preview(
            refusal=f"{_names(running, version)} {'runs' if len(running) == 1 else 'run'}: a running task cannot be "
            "ended by hand. Cancel the run, or wait for the outcome."
        )
    if not positions:
        return Preview(
            refusal=f"{_names(ended, version)} ended already: {', '.join(_words(states[p]) for p in ended[:5])}. "
            f"Once the run has ended, a re-run can have {'it' if len(ended) == 1 else 'them'} {done}."
        )
    full = JobRun.objects.only("parameters", "event").get(pk=run.pk)
    followed = what_follows(
        version.graph,
        states,
        settled=dict.fromkeys(positions, to),
        results={position: row.result for position, row in rows.items() if row.result is not None},
        parameters=full.parameters,
        event=full.event,
    )
    one = len(positions) == 1
    sentences = []
    if to == TaskState.SKIPPED:
        sentences.append(f"{'It ends' if one else 'They end'} skipped, which counts as no failure of the run.")
    else:
        sentences.append(
            f"{'It ends' if one else 'They end'} succeeded, without a result: a task that reads one finds none."
        )
    if followed.still_open == 0:
        sentences.append("Nothing is left to run then: the run ends.")
    elif not followed.closed and not followed.started:
        sentences.append("No other task changes by this now.")

    def named(places: Iterable[int], reasons: Mapping[int, str] | None = None) -> list[AffectedTask]:
        return [AffectedTask(version.graph.names[p], states[p], (reasons or {}).get(p, "")) for p in places]

    why = {decision.position: decision.reason for decision in followed.closed}
    groups: list[tuple[str, str, Sequence[AffectedTask]]] = [
        ("Ends " + done if one else "End " + done, to, named(positions)),
        ("Become ready", TaskState.READY, named(followed.started)),
    ]
    for state in (TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.FAILED):
        closed = [decision.position for decision in followed.closed if decision.state == state]
        groups.append((f"End {_words(state)} by this", state, named(closed, why)))
    groups.append(("Stay as they are: they run, or have ended", "", named(left_alone)))
    return Preview(tuple(sentences), _effects(*groups))


def _run(run_id: int) -> JobRun:
    runs = JobRun.objects.select_related("version").defer("version__spec", "version__source", "event", "parameters")
    run = runs.filter(pk=run_id).first()
    if run is None:
        raise UnknownRun(f"There is no run {run_id}.")
    return run


def _tasks(run: JobRun) -> list[AffectedTask]:
    rows = TaskRun.objects.filter(run=run).order_by("position").values_list("task__name", "state")
    return [AffectedTask(name, state) for name, state in rows]


def _positions(names: Collection[str], version: CompiledVersion) -> list[int]:
    unknown = [name for name in names if name not in version.positions]
    if unknown or not names:
        raise InvalidRequest(
            f"The run has no task {unknown[0][:63]!r}." if unknown else "No task was named.",
        )
    return sorted({version.positions[name] for name in names})


def _effects(*groups: tuple[str, str, Sequence[AffectedTask]]) -> tuple[Effect, ...]:
    return tuple(Effect(title, becomes, len(tasks), tuple(tasks[:NAMED])) for title, becomes, tasks in groups if tasks)


def _names(positions: Sequence[int], version: CompiledVersion) -> str:
    shown = ", ".join(version.graph.names[position] for position in positions[:5])
    return shown + (f" and {len(positions) - 5} more" if len(positions) > 5 else "")


def _words(state: str) -> str:
    return state.replace("_", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is(tasks: Sequence[object]) -> str:
    return "is" if len(tasks) == 1 else "are"


def _stay(number: int) -> str:
    return "stays as it is" if number == 1 else "stay as they are"
