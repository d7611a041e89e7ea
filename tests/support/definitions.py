"""Definitions from a few lines of text, with the task types of this release and two that stand for later ones."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import Any

from orchestrator.contracts import BUILT_IN_POOLS
from orchestrator.dag.parse import Definition, parse_definition
from orchestrator.dag.problems import Problem
from orchestrator.dag.spec import JobSpec
from orchestrator.dag.yaml_source import Limits
from orchestrator.registry import TaskType
from workers.executors.registry import ADAPTERS


def _loose(name: str, fields: str, *fixed: str) -> TaskType:
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
    return TaskType(name, name, schema | {"properties": {field: {} for field in fields.split()}}, fixed)


#: The contracts' examples name types of later releases; here they take any value in their fields.
LATER_TYPES = (
    _loose(
        "http", "url method query headers json body form expect timeouts tls_verify follow_redirects max_body result"
    ),
    _loose("sql", "connection statement bind result max_rows read_only transaction", "statement"),
)
TASK_TYPES = {kind.name: kind for kind in (*LATER_TYPES, *(adapter.type for adapter in ADAPTERS))}


def parse(text: str | bytes, *, stem: str = "", limits: Limits | None = None) -> Definition:
    """Parse a file with one definition."""
    (definition,) = parse_all(text, stem=stem, limits=limits)
    return definition


def parse_all(text: str | bytes, *, stem: str = "", limits: Limits | None = None) -> list[Definition]:
    return parse_definition(text, task_types=TASK_TYPES, pools=BUILT_IN_POOLS, stem=stem, limits=limits)


def spec_of(text: str, *, stem: str = "") -> JobSpec:
    """The spec of a definition that must be valid."""
    definition = parse(dedent(text), stem=stem)
    assert definition.spec is not None, [str(problem) for problem in definition.problems]
    return definition.spec


def job(tasks: str, head: str = "") -> str:
    """A job around some lines of tasks."""
    return f"kind: Job\nname: example\n{dedent(head)}\ntasks:\n{indent(dedent(tasks), '  ')}"


def problems_of(text: str, *, stem: str = "") -> list[Problem]:
    return list(parse(text, stem=stem).problems)


def only_problem(text: str, *, stem: str = "") -> Problem:
    found = problems_of(text, stem=stem)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]
