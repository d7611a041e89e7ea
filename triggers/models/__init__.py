"""Events, where they come from, what is made of them."""

from __future__ import annotations

from triggers.models.events import DeadLetter, Event, EventKey, Firing, Replay
from triggers.models.rules import RuleEpoch, RuleState, RuleVersion, TriggerRule
from triggers.models.sources import EventSource, Listener, UncleanExit

__all__ = [
    "DeadLetter",
    "Event",
    "EventKey",
    "EventSource",
    "Firing",
    "Listener",
    "Replay",
    "RuleEpoch",
    "RuleState",
    "RuleVersion",
    "TriggerRule",
    "UncleanExit",
]
