"""Definition → spec, or all of its problems at once.

A file may hold several YAML documents; each is a definition of its own. Everything that comes from the registry or
the settings is an argument, so that validation needs neither a database nor Django.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.dag.forms import JOB_FIELDS, PIPELINE_FIELDS, Draft, read_job, read_pipeline
from orchestrator.dag.kinds import NamedSpec, Reader
from orchestrator.dag.problems import Problem, TooManyProblems
from orchestrator.dag.reading import ProblemList, Value
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.task_type import TaskType
from orchestrator.dag.validation import check_job
from orchestrator.dag.yaml_source import Document, Limits, Node, read_documents


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition of a file. It has content exactly when there are no problems."""

    #: The content of a job.
    spec: JobSpec | None
    problems: tuple[Problem, ...]
    #: The text as it was written.
    source: str
    kind: str = "Job"
    #: The content of any other kind.
    other: NamedSpec | None = None

    @property
    def content(self) -> NamedSpec | None:
        return self.spec or self.other


def parse_definition(
    text: str | bytes,
    *,
    task_types: Mapping[str, TaskType],
    pools: Collection[str],
    limits: Limits | None = None,
    stem: str = "",
    kinds: Mapping[str, Reader] | None = None,
    lists: Mapping[str, str] | None = None,
) -> list[Definition]:
    """Parse a definition file; at least one definition comes back, if only to carry the file's problem.

    `stem` is the file's name without its suffix: a plain pipeline takes its job name from it. `kinds` are those that
    a document may be of beside `Job`, `lists` the fields of which each lists definitions of a kind.
    """
    limits = limits or Limits()
    documents = [document for document in read_documents(text, limits) if document.root or document.problems]
    if not documents:
        problem = Problem("", 1, 1, None, "kind: Job, or a pipeline", "the file is empty")
        return [Definition(None, (problem,), "")]
    kinds = kinds or {}
    definitions = []
    for document in documents:
        kind = _kind_of(document.root)
        field = _list_in(document.root, lists or {})
        if document.root is not None and field:
            definitions += _listed(document, document.root, field, (lists or {})[field], kinds, limits)
        elif document.root is not None and kind in kinds:
            definitions.append(_of_kind(document, document.root, kind, kinds[kind], limits))
        else:
            definitions.append(_definition(document, task_types, pools, limits, stem, kinds))
    return _unique_names(definitions)


def _kind_of(root: Node | None) -> str:
    fields = root.value if root is not None and isinstance(root.value, dict) else {}
    kind = fields.get("kind")
    if kind is None and "template_name" in fields:
        return "Template"  # as a pipeline, a template needs no kind
    return kind.value if kind is not None and isinstance(kind.value, str) else "Job"


def _list_in(root: Node | None, lists: Mapping[str, str]) -> str:
    fields = root.value if root is not None and isinstance(root.value, dict) else {}
    return next((field for field in lists if field in fields and "kind" not in fields), "")


def _listed(
    document: Document, root: Node, field: str, kind: str, kinds: Mapping[str, Reader], limits: Limits
) -> list[Definition]:
    """Read a document that lists definitions: each is one of its own, with the problems that are within it."""
    problems = ProblemList(root, limits, document.problems)
    found: list[Definition] = []
    with suppress(TooManyProblems):
        form = Value(root, (), problems).form((field,))
        entries = form.get(field) if form is not None else None
        items = entries.items(expected=f"a list of {field}") if entries is not None else []
        if entries is not None and not items and not problems.found:
            entries.refuse("empty", f"a list of {field}")
        for item in items:
            own = ProblemList(root, limits)
            content: NamedSpec | None = None
            with suppress(TooManyProblems):
                content = kinds[kind](Value(item.node, item.path, own))
            valid = content is not None and not own.found
            found.append(
                Definition(None, () if valid else _in_order(own), document.source, kind, content if valid else None)
            )
    if problems.found:
        found.insert(0, Definition(None, _in_order(problems), document.source, kind))
    return found


def _of_kind(document: Document, root: Node, kind: str, read: Reader, limits: Limits) -> Definition:
    problems = ProblemList(root, limits, document.problems)
    content: NamedSpec | None = None
    with suppress(TooManyProblems):
        content = read(Value(root, (), problems))
    if problems.found or content is None:
        return Definition(None, _in_order(problems), document.source, kind)
    return Definition(None, (), document.source, kind, content)


def _definition(
    document: Document,
    task_types: Mapping[str, TaskType],
    pools: Collection[str],
    limits: Limits,
    stem: str,
    kinds: Collection[str],
) -> Definition:
    if document.root is None:
        return Definition(None, document.problems, document.source)
    problems = ProblemList(document.root, limits, document.problems)
    draft: Draft | None = None
    try:
        if _is_within(document.root, problems):
            draft = _draft(Value(document.root, (), problems), task_types, pools, stem, kinds)
            if draft is not None:
                check_job(draft, problems, task_types)
    except TooManyProblems:
        pass
    if problems.found or draft is None:
        return Definition(None, _in_order(problems), document.source)
    return Definition(draft.spec, (), document.source)


def _in_order(problems: ProblemList) -> tuple[Problem, ...]:
    """Return the problems in the order of the document, whichever rule found them."""
    return tuple(sorted(problems.found, key=lambda problem: (problem.line or 0, problem.column or 0)))


def _draft(
    root: Value, task_types: Mapping[str, TaskType], pools: Collection[str], stem: str, kinds: Collection[str]
) -> Draft | None:
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
        Value(kind, ("kind",), root.problems).refuse("unknown kind", _one_of(("Job", *sorted(kinds))))
        return None
    return read_job(root, task_types=task_types, pools=pools)


def _one_of(names: Collection[str]) -> str:
    return " or ".join(names) if len(names) < 3 else "one of " + ", ".join(names)


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
    """Refuse a second job (or lock …) of the same name in one file: which would apply is not to be guessed."""
    seen: set[tuple[str, str]] = set()
    checked: list[Definition] = []
    for definition in definitions:
        content, kind = definition.content, definition.kind
        if content is not None and (kind, content.name) in seen:
            word = kind.lower()
            problem = Problem("name", None, None, content.name, f"each {word} once in a file", f"duplicate {word}")
            definition = Definition(None, (problem,), definition.source, kind)
        elif content is not None:
            seen.add((kind, content.name))
        checked.append(definition)
    return checked
