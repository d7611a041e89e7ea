"""A rule as people type it: YAML or JSON, alone or as the only one of a `taskTriggerRules` file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.dag.export import form_as_yaml
from orchestrator.dag.yaml_source import Limits, read_documents
from triggers.rules.fields import RuleProblem
from triggers.rules.spec import RuleSpec, read_rule


def read_rule_text(text: str) -> RuleSpec | tuple[RuleProblem, ...]:
    """Return the rule of a text, or everything that is wrong with it."""
    form = read_form(text, expected="a rule: ruleId, eventType, taskName …")
    if not isinstance(form, Mapping):
        return form
    rules = form.get("taskTriggerRules")
    if rules is not None and len(form) == 1:
        if not isinstance(rules, list) or len(rules) != 1:
            return (RuleProblem("taskTriggerRules", None, "one rule here; several by a file", "not one rule"),)
        form = rules[0]
    return read_rule(form)


def read_form(text: str, *, expected: str) -> Mapping[str, Any] | tuple[RuleProblem, ...]:
    """Return the mapping that a text writes, YAML or JSON, or what is wrong with it."""
    documents = [each for each in read_documents(text, Limits()) if each.root is not None or each.problems]
    problems = tuple(
        RuleProblem(
            problem.path or "", problem.value, problem.expected or expected, f"{_place(problem)}{problem.message}"
        )
        for document in documents
        for problem in document.problems
    )
    if problems:
        return problems
    root = documents[0].root if len(documents) == 1 else None
    plain = root.plain() if root is not None else None
    if not isinstance(plain, Mapping):
        return (RuleProblem("", None, expected, "empty" if not documents else "not one mapping"),)
    return plain


def rule_text(spec: RuleSpec) -> str:
    """Return the rule as YAML, without what it does not say."""
    return form_as_yaml(spec.canonical())


def _place(problem: Any) -> str:
    return f"line {problem.line}: " if problem.line is not None else ""
