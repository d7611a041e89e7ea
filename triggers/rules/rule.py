"""A version of a rule, ready to be evaluated: matched by type and place, compiled when it first meets an event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.program import Condition, Quantity, compile_condition, compile_quantity
from triggers.rules.placeholders import Template
from triggers.rules.plain import Plain, plain_condition
from triggers.rules.spec import RuleSpec

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class CompiledRule:
    """One version of one rule. Immutable but for what it compiles late; shared between threads."""

    __slots__ = (
        "_programs", "any_place", "channels", "headers", "number", "patterns", "rule_id", "slug", "sources", "spec",
        "tenant_id", "version_id",
    )  # fmt: skip

    def __init__(self, rule_id: int, version_id: int, number: int, tenant_id: int, spec: RuleSpec) -> None:
        self.rule_id: Final = rule_id
        self.version_id: Final = version_id
        self.number: Final = number
        self.tenant_id: Final = tenant_id
        self.slug: Final = spec.rule_id
        self.spec: Final = spec
        self.patterns: Final = spec.event_types
        self.sources: Final = frozenset(spec.sources)
        self.channels: Final = frozenset(spec.channels)
        self.headers: Final = spec.headers
        #: Whether its type alone decides that an event is a candidate.
        self.any_place: Final = not (spec.sources or spec.channels or spec.headers)
        self._programs: Programs | None = None

    def takes(self, source: str, channel: str, headers: Mapping[str, str]) -> bool:
        """Whether source, channel and headers of an event are such as the rule asks for."""
        return (
            (not self.sources or source in self.sources)
            and (not self.channels or channel in self.channels)
            and all(headers.get(name) == value for name, value in self.headers)
        )

    @property
    def programs(self) -> Programs:
        """What is evaluated, compiled at the first use: of ten thousand rules a listener may meet ten.

        Raises InvalidExpression or InvalidPlaceholder for a rule that an earlier release understood.
        """
        programs = self._programs
        if programs is None:
            # Two threads may both do it; either result is right.
            programs = self._programs = Programs(self.spec)
        return programs

    def __repr__(self) -> str:
        return f"<rule {self.slug} v{self.number}>"


class Programs:
    """The compiled parts of a rule."""

    __slots__ = ("condition", "grouped", "keys", "names", "own_task", "plain", "reads_headers", "staged", "template")

    def __init__(self, spec: RuleSpec) -> None:
        environment = rule_environment()
        self.condition: Final[Condition | None] = (
            compile_condition(spec.condition, environment) if spec.condition else None
        )
        #: The condition where it can do without CEL.
        self.plain: Final[Plain | None] = None if self.condition is None else plain_condition(spec.condition)
        #: Of the stages that keep something by a key, and of `concurrency`; None: one key for all.
        keys: dict[str, Quantity | None] = {}
        for name, stage in (
            ("dedupe", spec.dedupe),
            ("throttle", spec.throttle),
            ("debounce", spec.debounce),
            ("batch", spec.batch),
            ("concurrency", spec.concurrency),
        ):
            if stage is not None:
                keys[name] = compile_quantity(stage.key, environment) if stage.key else None
        self.keys: Final = tuple(keys.items())
        #: The variables that the expressions may name: a superset, a word in a text counts too.
        sources = [spec.condition, *(stage.key for stage in (spec.dedupe, spec.throttle, spec.debounce, spec.batch,
                   spec.concurrency) if stage is not None)]  # fmt: skip
        words = {word for source in sources for word in _WORD.findall(source)}
        self.names: Final = frozenset(words.intersection(environment.variables))
        self.template: Final = Template(spec.parameters, rule_id=spec.rule_id)
        self.reads_headers: Final = self.template.reads_headers
        self.own_task: Final = spec.task_type is not None
        self.grouped: Final = spec.debounce is not None or spec.batch is not None
        #: Whether an event that fires may still be held or dropped.
        self.staged: Final = bool(
            spec.dedupe or spec.throttle or spec.debounce or spec.batch or spec.delay or spec.window
        )


def compile_rule(*, rule_id: int, version_id: int, number: int, tenant_id: int, spec: RuleSpec) -> CompiledRule:
    """Return the rule, ready for an index. Cheap: its expressions are compiled when an event first asks for them."""
    return CompiledRule(rule_id, version_id, number, tenant_id, spec)
