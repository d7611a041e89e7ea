"""Which rules an event concerns, by its tenant, type, source, channel and headers; their conditions come later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from triggers.envelope import Envelope
from triggers.rules.rule import CompiledRule

#: Types of events whose candidates are remembered, per tenant; what types there are is the senders' choice.
REMEMBERED: Final = 4096

_NONE: Final[tuple[CompiledRule, ...]] = ()


class RuleIndex:
    """The rules in force. Immutable but for what it remembers; shared between threads."""

    def __init__(self, rules: Iterable[CompiledRule]) -> None:
        self._tenants: dict[int, _Tenant] = {}
        self.size = 0
        for rule in sorted(rules, key=lambda rule: rule.rule_id):
            tenant = self._tenants.get(rule.tenant_id)
            if tenant is None:
                tenant = self._tenants[rule.tenant_id] = _Tenant()
            tenant.add(rule)
            self.size += 1

    def candidates(
        self, tenant_id: int, envelope: Envelope, channel: str, headers: Mapping[str, str]
    ) -> Sequence[CompiledRule]:
        """Return the tenant's rules that ask for such an event, each once, ordered by their ids."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return _NONE
        rules, any_place = tenant.of_type(envelope.event_type)
        if any_place:
            return rules
        source = envelope.source
        return [rule for rule in rules if rule.any_place or rule.takes(source, channel, headers)]

    def concerns(self, tenant_id: int) -> bool:
        """Whether the tenant has any rule."""
        return tenant_id in self._tenants


class _Tenant:
    """Rules by type: a dictionary of exact types, a trie of patterns."""

    __slots__ = ("_exact", "_patterns", "_remembered")

    def __init__(self) -> None:
        self._exact: dict[str, list[CompiledRule]] = {}
        self._patterns = _Node()
        self._remembered: dict[str, tuple[tuple[CompiledRule, ...], bool]] = {}

    def add(self, rule: CompiledRule) -> None:
        for pattern in rule.patterns:
            if has_wildcard(pattern):
                node = self._patterns
                for word in pattern.split("."):
                    node = node.below.setdefault(word, _Node())
                node.rules.append(rule)
            else:
                self._exact.setdefault(pattern, []).append(rule)

    def of_type(self, event_type: str) -> tuple[tuple[CompiledRule, ...], bool]:
        """Return the rules of a type, and whether the type alone makes all of them candidates."""
        found = self._remembered.get(event_type)
        if found is None:
            rules = {rule.version_id: rule for rule in self._exact.get(event_type, ())}
            if self._patterns.below:
                rules |= {rule.version_id: rule for rule in self._patterns.matching(event_type.split("."))}
            ordered = tuple(sorted(rules.values(), key=lambda rule: rule.rule_id))
            found = (ordered, all(rule.any_place for rule in ordered))
            if len(self._remembered) >= REMEMBERED:
                self._remembered = {}
            self._remembered[event_type] = found
        return found


class _Node:
    __slots__ = ("below", "rules")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        #: Those whose pattern ends here.
        self.rules: list[CompiledRule] = []

    def matching(self, words: Sequence[str]) -> Iterable[CompiledRule]:
        # Level by level, all paths at once: a type of many words and patterns of many `*` stay one walk.
        nodes = [self]
        for word in words:
            following: list[_Node] = []
            for node in nodes:
                if (rest := node.below.get("#")) is not None:
                    yield from rest.rules
                if (one := node.below.get("*")) is not None:
                    following.append(one)
                # A type that is itself written with wildcards is only a text.
                if word not in ("*", "#") and (same := node.below.get(word)) is not None:
                    following.append(same)
            nodes = following
            if not nodes:
                return
        for node in nodes:
            yield from node.rules
            # As in AMQP: `order.#` is also for `order` itself.
            if (rest := node.below.get("#")) is not None:
                yield from rest.rules


def has_wildcard(pattern: str) -> bool:
    """Whether a type of event as a rule writes it stands for several."""
    return "*" in pattern or "#" in pattern


def matches_type(pattern: str, event_type: str) -> bool:
    """Whether a type of event is one that the pattern stands for."""
    if not has_wildcard(pattern):
        return pattern == event_type
    asked, given = pattern.split("."), event_type.split(".")
    if asked[-1] == "#":
        asked = asked[:-1]
        if len(given) < len(asked):
            return False
        given = given[: len(asked)]
    return len(asked) == len(given) and all(one in ("*", other) for one, other in zip(asked, given, strict=True))
