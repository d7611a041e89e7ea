"""Which rule costs too much too often: a hundred times over an expression's budget in five minutes."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

ERRORS: Final = 100
WITHIN: Final = timedelta(minutes=5)


class BudgetErrors:
    """Counts, per version of a rule, in one process."""

    def __init__(self, *, errors: int = ERRORS, within: timedelta = WITHIN) -> None:
        self._errors = errors
        self._within = within
        self._seen: dict[int, deque[datetime]] = {}

    def note(self, version_id: int, now: datetime) -> bool:
        """Count one; whether the rule has reached the limit, once for each time it does."""
        seen = self._seen.setdefault(version_id, deque(maxlen=self._errors))
        seen.append(now)
        if len(seen) < self._errors or now - seen[0] > self._within:
            return False
        del self._seen[version_id]
        return True
