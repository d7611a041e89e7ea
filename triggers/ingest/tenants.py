"""To which tenant an event of a shared source belongs: a CEL expression over it, and a list of who may be named."""

from __future__ import annotations

from orchestrator.expressions.environment import rule_environment
from orchestrator.expressions.program import NotEvaluated, compile_quantity
from triggers.envelope import Problem
from triggers.ingest.batch import SourceView
from triggers.rules.decide import Activation


class TenantMapping:
    """The compiled mapping of one source. Raises InvalidExpression when it does not compile."""

    def __init__(self, source: SourceView) -> None:
        assert source.tenant_mapping is not None
        self._tenants = source.tenants
        self._mapping = compile_quantity(source.tenant_mapping, rule_environment())

    def tenant_of(self, activation: Activation) -> int | Problem:
        """Return the tenant's id; a Problem `unknown_tenant` for whom the source does not list."""
        named = self._mapping.evaluate_on(activation.facts)
        if isinstance(named, str) and named in self._tenants:
            return self._tenants[named]
        given = str(named) if isinstance(named, NotEvaluated) else repr(named)
        return Problem("unknown_tenant", f"the mapping gives {given[:200]}, which the source does not list")
