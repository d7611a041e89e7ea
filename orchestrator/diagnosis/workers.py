"""Workers: who answers, and who takes work from which lane. One question to all of them, a second for the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from django.db.models.functions import Now

from orchestrator.celery import app
from orchestrator.contracts import CLOCK, CONTROL_LANE
from orchestrator.models import LaneWorker
from orchestrator.planning.patience import WORKER_LIVES
from orchestrator.registry import Finding
from orchestrator.selectors.overview import silent_lanes

ANSWER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """What workers answered: each one's clock, and between which moments of this host's clock they said it."""

    clocks: Mapping[str, float] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    asked: float = 0.0
    answered: float = 0.0
    trouble: str = ""


def ask() -> Told:
    """Ask every worker for its clock, whether or not it has work."""
    asked = time.time()
    try:
        answers = app.control.broadcast(CLOCK, reply=True, timeout=ANSWER_SECONDS) or []
    except Exception as error:  # whatever the transport throws, the workers were not reached
        return Told(trouble=type(error).__name__)
    said = {name: value for answer in answers for name, value in answer.items()}
    return Told(
        clocks={name: float(value) for name, value in said.items() if isinstance(value, int | float)},
        # One of another version may not know the question; that it says so is an answer.
        names=frozenset(said),
        asked=asked,
        answered=time.time(),
    )


def findings(told: Told, *, known: bool) -> list[Finding]:
    """Say who answers; and, where the database is `known`, who should have and which lanes nobody takes from."""
    if told.trouble:
        return [Finding("workers", ok=False, detail=told.trouble, hint="Start the broker.")]
    found = []
    mute = _mute(told) if known else []
    if not told.names:
        found.append(
            Finding("workers", ok=False, detail="no worker answers", hint="Start a worker and a control worker.")
        )
    elif mute:
        found.append(
            Finding(
                "workers", ok=False, detail=f"{', '.join(mute)} took work lately and does not answer",
                hint="Look at its log; if it has ended, this is over within half a minute; if not, start it again.",
            )
        )  # fmt: skip
    else:
        found.append(Finding("workers", ok=True, detail=", ".join(sorted(told.names))))
    return found


def lanes() -> Finding:
    """Say how many workers and slots each lane has, and which one that is needed has none."""
    live: dict[str, list[int]] = {}
    for lane, slots in LaneWorker.objects.filter(seen_at__gte=Now() - WORKER_LIVES).values_list("lane", "slots"):
        live.setdefault(lane, []).append(slots)
    silent = [f"{lane} ({count} {'job' if count == 1 else 'jobs'})" for lane, count in silent_lanes().items()]
    if CONTROL_LANE not in live:
        silent.append(f"{CONTROL_LANE} (moves runs on)")
    if silent:
        return Finding(
            "lanes",
            ok=False,
            detail=f"no live worker takes from: {', '.join(silent)}",
            hint="Start a worker with `--queues` and the lane; it reports itself at once.",
        )
    said = (
        f"{lane}: {len(each)} {'worker' if len(each) == 1 else 'workers'}, {sum(each)} slots"
        for lane, each in sorted(live.items())
    )
    return Finding("lanes", ok=True, detail="; ".join(said))


def _mute(told: Told) -> list[str]:
    """Who has reported to the database as a worker and does not answer now."""
    live = LaneWorker.objects.filter(seen_at__gte=Now() - WORKER_LIVES).values_list("worker", flat=True)
    return sorted(set(live) - told.names)
