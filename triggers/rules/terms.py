"""The stages of a rule, as it writes them. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: In the order in which an event passes them.
STAGES: Final = ("dedupe", "throttle", "debounce", "batch", "delay", "window")
#: A quiet time of a debounce that never comes ends after so many of them, unless the rule says when.
QUIETS_AT_MOST: Final = 10
#: How long a held firing and a waiting run may take, unless the rule says so.
EXPIRES_AFTER: Final = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Of the events of a key within `window` seconds of the first, the first alone fires."""

    key: str
    window: float


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most `limit` events of a key per `per` seconds; the others wait for their turn, or are dropped."""

    limit: int
    per: float
    on_exceed: Literal["hold", "drop"] = "hold"
    #: Empty: all events of the rule are counted together.
    key: str = ""


@dataclass(frozen=True, slots=True)
class Debounce:
    """The last event of a key fires, `quiet` seconds after it, or `max_wait` seconds after the first."""

    key: str
    quiet: float
    max_wait: float | None = None

    @property
    def longest(self) -> float:
        return self.max_wait if self.max_wait is not None else self.quiet * QUIETS_AT_MOST


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of a key fire together, once there are `max_events` or `max_wait` seconds after the first."""

    key: str
    max_events: int
    max_wait: float


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `max` runs of a key at a time, in the order of their events."""

    max: int
    #: Empty: what the transport orders by, such as Kafka's key.
    key: str = ""
    on_exceed: Literal["queue", "drop"] = "queue"
