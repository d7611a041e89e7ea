"""To which tenant an event of a shared source belongs: a CEL expression over it, and a list of who may be named."""

from __future__ import annotations

from triggers.envelope import Problem
from triggers.ingest.batch import SourceView
from triggers.rules.decide import Activation
from triggers.rules.keys import compile_key


class TenantMapping:
    """The compiled mapping of one source. Raises RuleProblem's error when it does not compile."""

    def __init__(self, source: SourceView) -> None:
        assert source.tenant_mapping is not None
        self._tenants = source.tenants
        self._key = compile_key(source.tenant_mapping)

    def tenant_of(self, activation: Activation) -> int | Problem:
        """Return the tenant's id; a Problem `unknown_tenant` for whom the source does not list."""
        named = self._key(activation)
        if isinstance(named, str) and named in self._tenants:
            return self._tenants[named]
        return Problem("unknown_tenant", f"the mapping gives {str(named)[:100]!r}, which the source does not list")
