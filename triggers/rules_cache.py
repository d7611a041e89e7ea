"""The rules in force, compiled, as every listener and web process holds them: at most a second old.

A change of a rule or a source makes the number of one row grow, in its own transaction. Whoever holds rules compares
that number at most once a second, and reads what is new only when it has grown: versions never change, so what is
compiled once stays compiled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from django.db.models import F, QuerySet

from triggers.models import RuleEpoch, RuleVersion
from triggers.rules.match import RuleIndex
from triggers.rules.rule import CompiledRule, compile_rule
from triggers.rules.spec import RuleSpec

log = logging.getLogger(__name__)

#: Seconds for which rules are taken for current without a look.
LOOKS_EVERY: Final = 1.0
#: Versions of one query.
_BATCH: Final = 500


class RuleCache:
    """The rules in force. Safe to share between threads; a thread that finds them old renews them for all."""

    def __init__(self, *, looks_every: float = LOOKS_EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._looks_every = looks_every
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._epoch = -1
        self._rules: dict[int, CompiledRule] = {}
        self._index = RuleIndex(())

    def current(self) -> RuleIndex:
        """Return the rules in force, as they were at most a second ago. Outside a transaction of the caller's.

        Raises what the database raises when it does not answer: old rules are no substitute.
        """
        if self._clock() - self._looked_at < self._looks_every:
            return self._index
        with self._lock:
            # The moment before the look: what changes during it must be seen a second after it began.
            now = self._clock()
            if now - self._looked_at >= self._looks_every:
                self._renew()
                self._looked_at = now
            return self._index

    def forget(self) -> None:
        """Hold nothing: the next look reads everything anew."""
        with self._lock:
            self._looked_at = float("-inf")
            self._epoch = -1
            self._rules = {}
            self._index = RuleIndex(())

    def _renew(self) -> None:
        # Before the rules: one that changes meanwhile is read now or makes the next look read again.
        epoch = current_epoch()
        if epoch == self._epoch:
            return
        wanted = set(in_force().values_list("pk", flat=True))
        rules = {pk: rule for pk, rule in self._rules.items() if pk in wanted}
        for rule in compiled(sorted(wanted - rules.keys())):
            rules[rule.version_id] = rule
        self._index = RuleIndex(rules.values())
        self._rules, self._epoch = rules, epoch


#: What the web processes share; a listener has its own.
shared = RuleCache()


class FixedRules:
    """Rules that do not change while they are used: those of a replay, disabled ones too."""

    def __init__(self, rules: Collection[CompiledRule]) -> None:
        self._index = RuleIndex(rules)

    def current(self) -> RuleIndex:
        """Return the rules."""
        return self._index


def bump_epoch() -> None:
    """Make every process read the rules anew within a second, once the caller's transaction is committed.

    Call it last: its row is locked until then, and every other change waits for it.
    """
    grown = {"value": F("value") + 1}
    if not RuleEpoch.objects.filter(pk=1).update(**grown):
        RuleEpoch.objects.get_or_create(pk=1)
        RuleEpoch.objects.filter(pk=1).update(**grown)


def current_epoch() -> int:
    """Return the number that grows with each change, 0 before the first."""
    return RuleEpoch.objects.filter(pk=1).values_list("value", flat=True).first() or 0


def in_force() -> QuerySet[RuleVersion, RuleVersion]:
    """Return the latest versions of the rules that are enabled and not deleted; one in quarantine is disabled."""
    return latest_versions().filter(rule__enabled=True)


def latest_versions() -> QuerySet[RuleVersion, RuleVersion]:
    """Return the latest versions of the rules that are not deleted."""
    return RuleVersion.objects.filter(rule__deleted_at=None, number=F("rule__version"))


def compiled(version_ids: Sequence[int]) -> list[CompiledRule]:
    """Load and compile versions of rules. One that cannot be compiled is left out and logged: it hinders no other."""
    rules = []
    for start in range(0, len(version_ids), _BATCH):
        rows = RuleVersion.objects.filter(pk__in=version_ids[start : start + _BATCH]).values_list(
            "pk", "number", "spec", "rule_id", "rule__tenant_id", "rule__slug"
        )
        for pk, number, spec, rule_id, tenant_id, slug in rows:
            try:
                rules.append(
                    compile_rule(
                        rule_id=rule_id,
                        version_id=pk,
                        number=number,
                        tenant_id=tenant_id,
                        spec=RuleSpec.from_canonical(spec),
                    )
                )
            except Exception as error:
                # It was checked when it was stored; a later release may understand less.
                log.error("a rule cannot be compiled", extra={"rule": slug, "reason": str(error)}, exc_info=error)
    return rules
