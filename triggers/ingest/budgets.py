"""Rules whose conditions cost too much, too often, are switched off: one of them would slow every event down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime

from django.db import Error

from triggers.rules.quarantine import BudgetErrors
from triggers.services.rules import quarantine_rule

logger = logging.getLogger(__name__)

_errors = BudgetErrors()


def note_budget_errors(over_budget: Mapping[tuple[int, int], int], now: datetime) -> None:
    """Count what a batch's (rule, version)s cost, after its commit; put a rule that reached the limit into quarantine.

    Never raises for the database: the next error counts again.
    """
    for (rule_id, version_id), count in over_budget.items():
        if not sum(_errors.note(version_id, now) for _ in range(count)):
            continue
        try:
            quarantine_rule(rule_id, reason="its expressions exceeded their budgets 100 times within 5 minutes")
        except Error as error:
            logger.warning("a rule could not be put into quarantine", extra={"rule": rule_id, "reason": str(error)})
