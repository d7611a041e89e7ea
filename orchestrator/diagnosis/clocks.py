"""Clocks of hosts against the database's. Leases and timers are judged by the database alone; what a host's own clock
decides is whether signatures of webhooks are in time, and how logs and events can be read together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from django.db import connection

from orchestrator.diagnosis.workers import Told
from orchestrator.registry import Finding

#: Half of what would make readers doubt a log; a signature is refused after five minutes.
MOST_SECONDS: Final = 5.0
_HINT: Final = "Let the host keep its time by NTP (chrony, systemd-timesyncd)."


def difference(told: float, *, asked: float, answered: float) -> float:
    """Return by how many seconds a clock is certainly off: 0 if it may have said `told` between question and answer."""
    if told < asked:
        return told - asked
    return max(0.0, told - answered)


def of_this_host() -> list[Finding]:
    return [_finding("clock of this host", {"": -_of_database()})]


def of_workers(told: Told) -> list[Finding]:
    """One finding for all hosts that answered; the database's clock as this host would read it."""
    database = _of_database()
    off: dict[str, float] = {}
    for worker, seconds in told.clocks.items():
        host = worker.rpartition("@")[2]
        found = difference(seconds, asked=told.asked + database, answered=told.answered + database)
        off[host] = max(found, off.get(host, 0.0), key=abs)
    return [_finding("clocks of workers", off)] if off else []


def _of_database() -> float:
    """Return how many seconds the database's clock is certainly ahead of this host's."""
    if connection.vendor != "postgresql":
        return 0.0  # SQLite reads the clock of the host that asks
    with connection.cursor() as cursor:
        asked = time.time()
        cursor.execute("select extract(epoch from clock_timestamp())::float8")
        told = cursor.fetchone()[0]
        return difference(told, asked=asked, answered=time.time())


def _finding(name: str, off: Mapping[str, float]) -> Finding:
    wrong = {host: seconds for host, seconds in off.items() if abs(seconds) > MOST_SECONDS}
    if not wrong:
        hosts = ", ".join(sorted(filter(None, off)))
        detail = f"within {MOST_SECONDS:.0f} s of the database's"
        return Finding(name, ok=True, detail=f"{hosts}: {detail}" if hosts else detail)
    said = "; ".join(
        f"{host + ' is ' if host else ''}{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the database"
        for host, seconds in sorted(wrong.items())
    )
    return Finding(name, ok=False, detail=said, hint=_HINT)
