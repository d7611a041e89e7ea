"""Definition → spec, or all of its problems at once.

A file may hold several YAML documents; each is a definition of its own. Everything that comes from the registry or
the settings is an argument, so that validation needs neither a database nor Django.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.dag.forms import JOB_FIELDS, PIPELINE_FIELDS, Draft, read_job, read_pipeline
from orchestrator.dag.problems import Problem, TooManyProblems
from orchestrator.dag.reading import ProblemList, Value
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.task_type import TaskType
from orchestrator.dag.validation import check_job
from orchestrator.dag.yaml_source import Document, Limits, Node, read_documents


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition of a file. `spec` is None exactly when there are problems."""

    spec: JobSpec | None
    problems: tuple[Problem, ...]
    #: The text as it was written.
    source: str
    kind: str = "Job"


def parse_definition(
    text: str | bytes,
    *,
    task_types: Mapping[str, TaskType],
    pools: Collection[str],
    limits: Limits | None = None,
    stem: str = "",
) -> list[Definition]:
    """Parse a definition file; at least one definition comes back, if only to carry the file's problem.

    `stem` is the file's name without its suffix: a plain pipeline takes its job name from it.
    """
    limits = limits or Limits()
    documents = [document for document in read_documents(text, limits) if document.root or document.problems]
    if not documents:
        problem = Problem("", 1, 1, None, "kind: Job, or a pipeline", "the file is empty")
        return [Definition(None, (problem,), "")]
    definitions = [_definition(document, task_types, pools, limits, stem) for document in documents]
    return _unique_names(definitions)


def _definition(
    document: Document, task_types: Mapping[str, TaskType], pools: Collection[str], limits: Limits, stem: str
) -> Definition:
    if document.root is None:
        return Definition(None, document.problems, document.source)
    problems = ProblemList(document.root, limits, document.problems)
    draft: Draft | None = None
    try:
        if _is_within(document.root, problems):
            draft = _draft(Value(document.root, (), problems), task_types, pools, stem)
            if draft is not None:
                check_job(draft, problems, task_types)
    except TooManyProblems:
        pass
    if problems.found or draft is None:
        # In the order of the document, whichever rule found them.
        found = sorted(problems.found, key=lambda problem: (problem.line or 0, problem.column or 0))
        return Definition(None, tuple(found), document.source)
    return Definition(draft.spec, (), document.source)


def _draft(root: Value, task_types: Mapping[str, TaskType], pools: Collection[str], stem: str) -> Draft | None:
    fields = root.raw
    if not isinstance(fields, dict):
        root.refuse("wrong type", "a mapping: kind: Job with its fields, or a pipeline")
        return None
    if "pipeline" in fields and "kind" not in fields:
        return read_pipeline(root, stem=stem, task_types=task_types)
    kind = fields.get("kind")
    if kind is None:
        near = next((name for name in fields if root.problems.nearest(name, ("kind",))), None)
        message = "missing" if near is None else f"missing (misspelt as {near}?)"
        root.problems.add(("kind",), message, "kind: Job, or a pipeline")
        if not set(fields) & (set(JOB_FIELDS) - set(PIPELINE_FIELDS)):
            return None
    elif kind.value != "Job":
        Value(kind, ("kind",), root.problems).refuse("unknown kind", "Job")
        return None
    return read_job(root, task_types=task_types, pools=pools)


def _is_within(root: Node, problems: ProblemList) -> bool:
    """Refuse a definition that is too large before anything is looked at in detail."""
    if not isinstance(root.value, dict):
        return True
    within = True
    for field, depends_field in (("tasks", "depends_on"), ("pipeline", "dependencies")):
        tasks = root.value.get(field)
        if tasks is None or not isinstance(tasks.value, list):
            continue
        if len(tasks.value) > problems.limits.tasks:
            problems.add((field,), f"{len(tasks.value)} tasks", f"at most {problems.limits.tasks} tasks")
            within = False
        edges = 0
        for task in tasks.value:
            depends = task.value.get(depends_field) if isinstance(task.value, dict) else None
            edges += len(depends.value) if depends is not None and isinstance(depends.value, list) else 0
        if edges > problems.limits.edges:
            problems.add((field,), f"{edges} dependencies", f"at most {problems.limits.edges} dependencies")
            within = False
    return within


def _unique_names(definitions: list[Definition]) -> list[Definition]:
    """Refuse a second job of the same name in one file: which of them would apply is not to be guessed."""
    seen: set[str] = set()
    checked: list[Definition] = []
    for definition in definitions:
        if definition.spec is not None and definition.spec.name in seen:
            name = definition.spec.name
            problem = Problem("name", None, None, name, "each job once in a file", "duplicate job")
            definition = Definition(None, (problem,), definition.source)
        elif definition.spec is not None:
            seen.add(definition.spec.name)
        checked.append(definition)
    return checked
