"""Definitions as texts: read with this installation's task types, kinds, pools and limits."""

from __future__ import annotations

from orchestrator.conf import options
from orchestrator.dag.parse import Definition, parse_definition
from orchestrator.dag.problems import Problem
from orchestrator.dag.yaml_source import Limits
from orchestrator.errors import Detail, InvalidDefinition
from orchestrator.registry import definition_kinds, task_types

#: A refusal names so many problems; the validation call and `validate` name them all.
NAMED_PROBLEMS = 50


def read_definitions(text: str | bytes, *, stem: str = "") -> list[Definition]:
    """Return the definitions of a text, YAML or JSON, each with its content or with all of its problems.

    `stem` gives a plain pipeline its name. Asks no database; safe to call twice.
    """
    return parse_definition(
        text,
        task_types=task_types.as_mapping(),
        pools=options().pools,
        limits=Limits(),
        stem=stem,
        kinds={kind.name: kind.read for kind in definition_kinds if kind.read is not None},
        lists={kind.list_field: kind.name for kind in definition_kinds if kind.list_field},
    )


def valid_definitions(text: str | bytes, *, stem: str = "") -> list[Definition]:
    """Return the definitions of a text that must be valid; raises InvalidDefinition with what is wrong."""
    found = read_definitions(text, stem=stem)
    problems = [problem for definition in found for problem in definition.problems]
    if problems:
        raise InvalidDefinition(details=tuple(detail_of(problem) for problem in problems[:NAMED_PROBLEMS]))
    return found


def detail_of(problem: Problem, path: str | None = None) -> Detail:
    """Return a problem as a refusal names it; `path`, if given, is what its place is called there."""
    place = f" on line {problem.line}" if problem.line is not None and path is None else ""
    expected = problem.expected or "a definition without this"
    return Detail(problem.path if path is None else path, problem.value, f"{expected} ({problem.message}{place})")
