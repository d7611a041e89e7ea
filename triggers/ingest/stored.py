"""A stored event as rules see it, for what fires later than it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from triggers.envelope import Envelope
from triggers.models import Event

#: Links of a chain of rules that are kept.
LONGEST_CHAIN: Final = 16


@dataclass(frozen=True, slots=True)
class Cause:
    """Where an event comes from, as the runs before it wrote it down: `metadata.causation`."""

    root_event_id: int | None = None
    depth: int = 0
    #: Ids of rules, the latest last, as many as were sent.
    chain: tuple[int, ...] = ()


NO_CAUSE: Final = Cause()


def cause_of(metadata: Mapping[str, Any]) -> Cause:
    """Return the cause that an event names; what has other types is somebody else's field of the same name."""
    causation = metadata.get("causation")
    if causation.__class__ is not dict:
        return NO_CAUSE
    assert isinstance(causation, dict)  # for the type checker; exact above
    root, depth, chain = causation.get("rootEventId"), causation.get("depth"), causation.get("ruleChain")
    if not (isinstance(chain, list) and all(link.__class__ is int for link in chain)):
        chain = ()
    return Cause(
        root if root.__class__ is int and 0 < root < 2**63 else None,
        min(depth, 32_767) if depth.__class__ is int and depth >= 0 else 0,
        tuple(chain),
    )


def envelope_of(event: Event) -> Envelope:
    """Return the envelope of a stored event."""
    return Envelope(
        message_id=event.message_id,
        event_type=event.event_type,
        timestamp=event.event_time,
        source=event.source,
        payload=event.payload,
        destination=event.destination,
        priority=event.priority,
        metadata=event.metadata,
    )
