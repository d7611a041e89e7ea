"""Rules that look at a job as a whole: names, loops, references, conditions, and each type's own fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from orchestrator.dag.forms import RISKY_ENDS, TASK_FIELDS, Draft
from orchestrator.dag.graph import find_loops, loop_text, topological_order
from orchestrator.dag.problems import Path
from orchestrator.dag.reading import ProblemList
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.task_type import TaskType
from orchestrator.expressions.environment import Environment
from orchestrator.expressions.placeholders import (
    EXPECTED,
    Placeholder,
    is_whole,
    ours_in_fixed_text,
    parse_template,
    texts_in,
)
from orchestrator.expressions.problems import InvalidExpression, InvalidPlaceholder
from orchestrator.expressions.program import compile_condition, fields_of
from orchestrator.units import duration_text


def check_job(draft: Draft, problems: ProblemList, task_types: Mapping[str, TaskType]) -> None:
    """Record every problem of a draft that reading its fields one by one could not see."""
    index = _check_names(draft, problems)
    upstream = _check_dependencies(draft, problems, index)
    loops = find_loops(upstream)
    for loop in loops:
        _report_loop(draft, problems, loop)
    _check_retries(draft, problems)
    _check_conditions(draft, problems, index)
    _check_configs(draft, problems, task_types)
    lineage = None if loops else _Lineage(draft.spec, upstream)
    _check_placeholders(draft, problems, task_types, index, lineage)


def _check_names(draft: Draft, problems: ProblemList) -> dict[str, int]:
    index: dict[str, int] = {}
    for number, task in enumerate(draft.spec.tasks):
        if not task.name:
            continue
        first = index.setdefault(task.name, number)
        if first != number:
            path = (draft.tasks_field, number, "name")
            problems.add(path, f"duplicate task, first in {draft.tasks_field}[{first}]", "each name once", task.name)
    return index


def _check_dependencies(draft: Draft, problems: ProblemList, index: Mapping[str, int]) -> list[list[int]]:
    """Return the upstream numbers of each task, without those that do not exist."""
    upstream: list[list[int]] = []
    for number, task in enumerate(draft.spec.tasks):
        found: dict[int, None] = {}
        for place, edge in enumerate(task.depends_on):
            path = (*draft.dependency_path(number, place), "task")
            if not edge.task:
                if isinstance(problems.root.nearest(path).value, str):
                    problems.add(path, "unknown upstream task", "the name of a task of the job", "")
            elif edge.task not in index:
                problems.unknown(path, "upstream task", edge.task, index)
            elif index[edge.task] in found:
                problems.add(path, "duplicate dependency", "each upstream task once", edge.task)
            else:
                found[index[edge.task]] = None
        upstream.append(list(found))
    return upstream


def _report_loop(draft: Draft, problems: ProblemList, loop: tuple[int, ...]) -> None:
    names = [draft.spec.tasks[number].name for number in loop]
    # The dependency of the loop's first task on its last: removing it opens the loop.
    first, last = loop[0], loop[-2]
    tasks = draft.spec.tasks
    place = next(place for place, edge in enumerate(tasks[first].depends_on) if edge.task == tasks[last].name)
    problems.add(
        (*draft.dependency_path(first, place), "task"),
        f"the dependencies run in a circle: {loop_text(names)}",
        "dependencies without a circle",
        tasks[last].name,
    )


def _check_retries(draft: Draft, problems: ProblemList) -> None:
    from_defaults: list[str] = []
    for number, task in enumerate(draft.spec.tasks):
        risky = [end for end in task.retry.on if end in RISKY_ENDS]
        if not risky or task.idempotent:
            continue
        path = (draft.tasks_field, number, "retry", "on")
        if isinstance(problems.root.nearest(path).value, list):
            problems.add(
                path, f"retry on {', '.join(risky)} of a task that is not idempotent", "idempotent: true", risky
            )
        else:
            from_defaults.append(task.name)
    if from_defaults:
        names = ", ".join(from_defaults[:5]) + (" …" if len(from_defaults) > 5 else "")
        problems.add(
            ("defaults", "retry", "on"),
            f"retry on {', '.join(RISKY_ENDS)} of tasks that are not idempotent: {names}",
            "idempotent: true, or a retry.on of their own",
        )


def _check_conditions(draft: Draft, problems: ProblemList, index: Mapping[str, int]) -> None:
    conditions = [
        (edge.task, (*draft.dependency_path(number, place), "when"), edge.when)
        for number, task in enumerate(draft.spec.tasks)
        for place, edge in enumerate(task.depends_on)
        if edge.when is not None
    ]
    if not conditions:
        return
    params = {parameter.name for parameter in draft.spec.parameters}
    # One environment for all: a new one costs a millisecond, which 50,000 conditions would feel.
    upstreams = dict.fromkeys(upstream for upstream, _, _ in conditions if upstream in index)
    environment = Environment(maps=("params", "event"), values=(f"results.{name}" for name in upstreams))
    for upstream, path, source in conditions:
        foreign = [name for name in dict.fromkeys(fields_of(source, "results")) if name != upstream]
        for name in foreign if upstream in index else ():
            problems.add(path, *_foreign_result(name, upstream, problems, index), source)
        try:
            compile_condition(source, environment)
        except InvalidExpression as error:
            for problem in error.problems:
                if (problem.undeclared or "").partition(".")[2].partition(".")[0] in (*foreign, upstream):
                    continue  # reported above, or the upstream itself is unknown
                expected = "a CEL expression that is true or false"
                if problem.undeclared:
                    expected = f"params.<name>, event.<path> or results.{upstream}"
                problems.add(path, f"condition: {problem}", expected, source)
        for name in dict.fromkeys(fields_of(source, "params")):
            if name not in params:
                near = problems.nearest(name, params)
                expected = f"params.{near}?" if near else "a parameter of the job"
                problems.add(path, f"condition: unknown parameter params.{name}", expected, source)


def _foreign_result(name: str, upstream: str, problems: ProblemList, index: Mapping[str, int]) -> tuple[str, str]:
    if name in index:
        return f"condition: results.{name} is not the result of its own upstream", f"results.{upstream}"
    near = problems.nearest(name, index)
    return f"condition: unknown task in results.{name}", f"results.{near}?" if near else f"results.{upstream}"


def _check_configs(draft: Draft, problems: ProblemList, task_types: Mapping[str, TaskType]) -> None:
    validators: dict[str, jsonschema_rs.Validator] = {}
    for number, task in enumerate(draft.spec.tasks):
        task_type = task_types.get(task.type)
        if task_type is None:
            continue
        validator = validators.get(task.type)
        if validator is None:
            validator = validators[task.type] = config_validator(task_type)
        if not validator.is_valid(task.config):
            _report_config(problems, (draft.tasks_field, number), task.config, validator, task_type)
        if task_type.check is not None:
            for found in task_type.check(task.config):
                problems.add((draft.tasks_field, number, *found.path), found.message, found.expected, found.value)
        seconds = task_type.takes(task.config) if task_type.takes is not None else None
        if seconds is not None and task.timeout_from != "type" and task.timeout <= seconds:
            path = (draft.tasks_field, number, "timeout")
            takes = f"more than the {duration_text(seconds)} that the task takes by its own fields"
            problems.add(path, "the task would always time out", takes, duration_text(task.timeout))


def config_validator(task_type: TaskType) -> jsonschema_rs.Validator:
    """Return a validator of the type's own fields, which fetches nothing."""
    return jsonschema_rs.Draft202012Validator(dict(task_type.schema), retriever=_refuse_reference)


def _refuse_reference(uri: str) -> Any:
    # The library would fetch http and file references while it compiles the schema.
    raise ValueError(f"a schema refers to {uri}; only references inside it are allowed")


def _report_config(
    problems: ProblemList, base: Path, config: Any, validator: jsonschema_rs.Validator, task_type: TaskType
) -> None:
    for error in validator.iter_errors(config):
        path = (*base, *error.instance_path)
        found = _at(config, error.instance_path)
        kind: Any = error.kind  # its attributes differ from kind to kind
        match kind.name:
            case "required":
                problems.add((*path, kind.property), "missing", f"a field of type {task_type.name}")
            case "additionalProperties" | "unevaluatedProperties":
                known = _at(task_type.schema, error.schema_path[:-1])
                names = list(known.get("properties", ())) if isinstance(known, Mapping) else []
                if not error.instance_path:
                    names += TASK_FIELDS
                for name in kind.unexpected:
                    problems.unknown((*path, name), "field", name, names, at_key=True)
            case _ if _depends_on_run(found, kind.name):
                pass  # a placeholder may become what the schema asks for; its executor checks again
            case "type":
                problems.add(path, "wrong type", " or ".join(kind.types), found)
            case "enum":
                problems.add(path, "not a known value", " | ".join(map(str, kind.options)), found)
            case _:
                problems.add(path, "does not fit the task type", _expectation(error), found)


def _expectation(error: jsonschema_rs.ValidationError) -> str:
    for attribute, words in (("limit", ""), ("pattern", "a text that matches "), ("format", "the format ")):
        if hasattr(error.kind, attribute):
            return words + f"{_spaced(error.kind.name) + ' ' if not words else ''}{getattr(error.kind, attribute)}"
    return _spaced(error.kind.name)


def _spaced(name: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)


def _depends_on_run(value: Any, rule: str) -> bool:
    """Whether a placeholder may still change what the rule says: one that is the whole text may change its type."""
    if isinstance(value, str):
        return is_whole(value) or (rule != "type" and "${" in value)
    return rule != "type" and any(True for _ in texts_in(value))


def _check_placeholders(
    draft: Draft,
    problems: ProblemList,
    task_types: Mapping[str, TaskType],
    index: Mapping[str, int],
    lineage: _Lineage | None,
) -> None:
    params = {parameter.name for parameter in draft.spec.parameters}
    for number, task in enumerate(draft.spec.tasks):
        task_type = task_types.get(task.type)
        fixed = task_type.fixed_text if task_type is not None else ()
        for where, text in texts_in(task.config):
            path = (draft.tasks_field, number, *where)
            if where and where[0] in fixed:
                ours = ours_in_fixed_text(text)
                if ours is not None:
                    through = " or ".join(task_type.values_in) if task_type is not None else "env or args"
                    given = f"the value through {through}" if through else "a fixed text"
                    expected = f"{given}: this text is never a template"
                    problems.add(path, f"placeholder in the fixed text of {where[0]}", expected, ours)
                continue
            try:
                parts = parse_template(text)
            except InvalidPlaceholder as error:
                problems.add(path, f"bad placeholder: {error}", EXPECTED, error.placeholder)
                continue
            for part in parts:
                if isinstance(part, str):
                    continue
                if part.root == "params" and part.path[0] not in params:
                    near = problems.nearest(part.path[0], params)
                    expected = f"${{params.{near}}}?" if near else "a parameter of the job"
                    problems.add(path, "unknown parameter in a placeholder", expected, f"${{{part.reference}}}")
                elif part.root == "results":
                    _check_result(draft, problems, path, number, part, index, lineage)


def _check_result(
    draft: Draft,
    problems: ProblemList,
    path: Path,
    number: int,
    placeholder: Placeholder,
    index: Mapping[str, int],
    lineage: _Lineage | None,
) -> None:
    name = placeholder.path[0]
    written = f"${{{placeholder.reference}}}"
    source = index.get(name)
    if source is None:
        near = problems.nearest(name, index)
        expected = f"${{results.{near}}}?" if near else "a task that this one depends on"
        problems.add(path, "unknown task in a placeholder", expected, written)
    elif lineage is None:
        pass  # with a loop there is no before and after
    elif not lineage.is_ancestor(source, number):
        problems.add(path, f"{name} is no ancestor of this task", "a task that this one depends on", written)
    elif placeholder.default is None and not lineage.must_be_final(source, number):
        problems.add(
            path,
            f"{name} may not have ended when this task starts",
            f"a default: ${{{placeholder.reference}:-…}}",
            written,
        )


class _Lineage:
    """Which tasks come before which, and which of them must have ended; made when first asked.

    Sets are integers used as bit sets: at 10,000 tasks a set takes 1.2 KB and a union a microsecond.
    """

    def __init__(self, spec: JobSpec, upstream: list[list[int]]) -> None:
        self._spec = spec
        self._upstream = upstream
        self._ancestors: list[int] = []
        self._final: list[int] = []

    def is_ancestor(self, source: int, number: int) -> bool:
        self._prepare()
        return bool(self._ancestors[number] >> source & 1)

    def must_be_final(self, source: int, number: int) -> bool:
        """Whether `source` has certainly ended when `number` starts, a person's marks aside."""
        self._prepare()
        return bool(self._final[number] >> source & 1)

    def _prepare(self) -> None:
        if self._ancestors:
            return
        count = len(self._upstream)
        index = {task.name: number for number, task in reversed(list(enumerate(self._spec.tasks)))}
        ancestors = [0] * count
        at_start = [0] * count  # what has ended when the task starts
        at_end = [0] * count  # what has ended when the task has, started or closed
        for number in topological_order(self._upstream):
            task = self._spec.tasks[number]
            starts: list[int] = []
            closes: list[int] = []
            for edge in task.depends_on:
                up = index.get(edge.task)
                if up is None or up not in self._upstream[number]:
                    continue
                ancestors[number] |= ancestors[up] | 1 << up
                # A success has started. A failure has, unless a condition that could not be evaluated made it one.
                started = edge.status == "success" or (
                    edge.status == "failed" and all(each.when is None for each in self._spec.tasks[up].depends_on)
                )
                starts.append((at_start[up] if started else at_end[up]) | 1 << up)
                closes.append(at_end[up] | 1 << up)
            # Joined by `all`, a task starts when all have opened and closes when one has closed; `any` is the mirror.
            opened, closed = (_every, _some) if task.join == "all" else (_some, _every)
            at_start[number] = opened(starts)
            at_end[number] = at_start[number] & closed(closes) if starts else 0
        self._ancestors, self._final = ancestors, at_start


def _every(sets: list[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union


def _some(sets: list[int]) -> int:
    common = sets[0] if sets else 0
    for each in sets[1:]:
        common &= each
    return common


def _at(value: Any, path: Sequence[str | int]) -> Any:
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return None
    return value
