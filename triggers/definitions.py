"""The kinds of definitions that are ours: files of rules as the contract has them, and `kind: EventSource`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.models import Tenant
from orchestrator.registry import AppliedDefinition, DefinitionKind, Written, definition_kinds
from orchestrator.services.definitions import Value, describe_form_changes
from orchestrator.services.secrets import NAME as SECRET_NAME
from triggers.models import EventSource, TriggerRule
from triggers.rules.spec import RuleSpec, read_rule
from triggers.selectors.rules import rule_of
from triggers.selectors.sources import source_of
from triggers.services import rules, sources
from triggers.services.sources import SLUG, SourceSpec

RULE_LIST: Final = "taskTriggerRules"
SOURCE_FIELDS: Final = ("kind", *sources.FIELDS)
_STEP: Final = re.compile(r'\.?([^.\[\]"]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]')


@dataclass(frozen=True, slots=True)
class RuleDefinition:
    """A rule of a file, under its id."""

    spec: RuleSpec

    @property
    def name(self) -> str:
        return self.spec.rule_id


def register_kinds() -> None:
    """Make the kinds known. Safe to call twice."""
    definition_kinds.register("TriggerRule", _RULE)
    definition_kinds.register("EventSource", _SOURCE)


def rule_form(spec: RuleSpec) -> dict[str, Any]:
    """Return a file with this one rule."""
    return {RULE_LIST: [spec.canonical()]}


def source_form(spec: SourceSpec) -> dict[str, Any]:
    """Return the definition of a source as people write it."""
    form: dict[str, Any] = {"kind": "EventSource", "slug": spec.slug, "type": spec.kind}
    form |= {"config": dict(spec.config)} if spec.config else {}
    form |= {"secrets": dict(spec.secrets)} if spec.secrets else {}
    return form | {"id_policy": spec.id_policy, "enabled": spec.enabled}


def _read_rule(root: Value) -> RuleDefinition | None:
    plain = root.plain()
    if not isinstance(plain, dict):
        root.refuse("wrong type", "a rule: ruleId, eventType, taskName …")
        return None
    plain.pop("kind", None)
    spec = read_rule(plain)
    if not isinstance(spec, RuleSpec):
        for problem in spec:
            root.problems.add((*root.path, *_steps(problem.path)), problem.message, problem.expected, problem.value)
        return None
    beyond = rules.problems_beyond(spec)
    for detail in beyond:
        root.problems.add((*root.path, *_steps(detail.path)), "does not fit", detail.expected, detail.value)
    return None if beyond else RuleDefinition(spec)


def _read_source(root: Value) -> SourceSpec | None:
    form = root.form(SOURCE_FIELDS)
    if form is None:
        return None
    given = form.required("slug", "the source's name")
    slug = given.name(SLUG, "name of a source") if given is not None else None
    given = form.required("type", "the kind of source")
    kind = given.text(longest=63) if given is not None else None
    config = _mapping(form.get("config"))
    secrets = _mapping(form.get("secrets"), of_names=True)
    given = form.get("id_policy")
    id_policy = "" if given is None else given.text(longest=63)
    given = form.get("enabled")
    enabled = True if given is None else given.boolean()
    if slug is None or kind is None or config is None or secrets is None or id_policy is None or enabled is None:
        return None
    spec = SourceSpec(slug, kind, config, secrets, id_policy, enabled)
    problems = sources.problems_of(spec)
    for detail in problems:
        root.problems.add(_steps(detail.path), "does not fit", detail.expected, detail.value)
    return None if problems else spec


def _mapping(given: Value | None, *, of_names: bool = False) -> dict[str, Any] | None:
    if given is None:
        return {}
    plain = given.plain()
    if not isinstance(plain, dict):
        given.refuse("wrong type", "a mapping")
        return None
    if of_names:
        for role, name in plain.items():
            if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
                given.problems.add((*given.path, role), "not a name", "the name of a stored secret")
                return None
    return plain


def _steps(path: str) -> tuple[str | int, ...]:
    """Return the steps of a path that was written as text, such as `match.source[0]`."""
    steps: list[str | int] = []
    for name, index, key in _STEP.findall(path):
        steps.append(int(index) if index else key or name)
    return tuple(steps)


def _plan_rule(tenant: Tenant, definition: RuleDefinition) -> list[str]:
    row = TriggerRule.objects.filter(tenant=tenant, slug=definition.name, deleted_at=None).first()
    if row is None:
        return [f"create rule {definition.name}"]
    return describe_form_changes(row.spec, definition.spec.canonical())


def _apply_rule(tenant: Tenant, definition: RuleDefinition, written: Written) -> AppliedDefinition:
    stored = rules.set_rule_within(tenant, definition.spec, by=written.by, comment=written.comment)
    return AppliedDefinition("TriggerRule", definition.name, stored.outcome, stored.rule.version, stored.afterwards)


def _export_rule(tenant: Tenant, name: str) -> Mapping[str, Any]:
    return rule_form(rules.spec_of_rule(rule_of(tenant.pk, name)))


def _plan_source(tenant: Tenant, spec: SourceSpec) -> list[str]:
    row = EventSource.objects.filter(tenant=tenant, slug=spec.slug).first()
    if row is None:
        return [f"create {spec.kind} source {spec.slug}"]
    return describe_form_changes(
        source_form(sources.spec_of_source(row)), source_form(sources.settled(spec, row, tenant))
    )


def _apply_source(tenant: Tenant, spec: SourceSpec, written: Written) -> AppliedDefinition:
    stored = sources.set_source_within(tenant, spec, by=written.by, reason=written.comment)
    return AppliedDefinition("EventSource", spec.slug, stored.outcome)


def _export_source(tenant: Tenant, name: str) -> Mapping[str, Any]:
    return source_form(sources.spec_of_source(source_of(tenant.pk, name)))


_RULE: Final = DefinitionKind(
    "TriggerRule",
    _read_rule,
    lambda definition: f"on {', '.join(definition.spec.event_types[:3])}",
    _plan_rule,
    _apply_rule,
    _export_rule,
    list_field=RULE_LIST,
    word="rule",
)
_SOURCE: Final = DefinitionKind(
    "EventSource",
    _read_source,
    lambda spec: str(spec.kind),
    _plan_source,
    _apply_source,
    _export_source,
    word="event source",
)
