"""What a consumer of a group may use, and what it may commit. Pure: the calls to Kafka are `kafka.py`'s.

A message that a poll returned is never dropped unless its partition went away since: it waits in `carry` until it is
taken. And nothing of a partition that went away is committed: the broker would accept it and set its new owner back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

#: Topic and number.
Part = tuple[str, int]


class Placed(Protocol):
    """A message that knows its place in its partition."""

    def offset(self) -> int: ...


M = TypeVar("M", bound=Placed)
#: Messages as one poll returned them, each with its partition, and the era in which it did.
Slice = tuple[int, Sequence[tuple[Part, M]]]


@dataclass(frozen=True, slots=True)
class Rewind:
    """A partition went on at a lower offset than the one that was next: its topic is another of the same name."""

    part: Part
    expected: int
    found: int


class Partitions(Generic[M]):
    """The partitions of one consumer, from their assignment until they are revoked or lost."""

    def __init__(self) -> None:
        self.owned: set[Part] = set()
        #: Next offsets of what is durable and not yet committed.
        self.done: dict[Part, int] = {}
        #: Next offsets of what was finished since the assignment.
        self.expected: dict[Part, int] = {}
        #: Grows when partitions leave: what was polled before may be read by somebody else now.
        self._era = 0
        #: Part → the era in which it became ours.
        self._since: dict[Part, int] = {}
        self._carry: list[Slice[M]] = []

    def assign(self, parts: Iterable[Part]) -> None:
        """These are ours from now on."""
        for part in parts:
            self.owned.add(part)
            self._since[part] = self._era

    def to_commit(self, parts: Collection[Part]) -> dict[Part, int]:
        """What may still be committed of partitions that are about to leave."""
        return {part: offset for part, offset in self.done.items() if part in parts and part in self.owned}

    def forget(self, parts: Collection[Part]) -> None:
        """These left, revoked or lost: nothing of them is used or committed any more. Safe to call twice."""
        self._era += 1
        for part in parts:
            self.owned.discard(part)
            self._since.pop(part, None)
            self.done.pop(part, None)
            self.expected.pop(part, None)

    def keep(self, messages: Sequence[tuple[Part, M]]) -> None:
        """Remember what a poll returned until it is taken."""
        if messages:
            self._carry.append((self._era, messages))

    @property
    def kept(self) -> int:
        """How many messages wait to be taken."""
        return sum(len(messages) for _, messages in self._carry)

    def take(self, most: int) -> list[Slice[M]]:
        """Hand out the oldest messages that wait, at most so many; the rest goes on waiting."""
        taken: list[Slice[M]] = []
        while self._carry and most > 0:
            era, messages = self._carry[0]
            taken.append((era, messages[:most]))
            if len(messages) > most:
                self._carry[0] = (era, messages[most:])
            else:
                del self._carry[0]
            most -= len(messages)
        return taken

    def ours(self, slices: Iterable[Slice[M]]) -> list[tuple[Part, M]]:
        """Cut messages down to those whose partitions stayed ours ever since they were polled."""
        since, here = self._since, self._era + 1
        return [pair for era, pairs in slices for pair in pairs if since.get(pair[0], here) <= era]

    def finish(self, messages: Iterable[tuple[Part, M]]) -> list[Rewind]:
        """These are durable: their next offsets may be committed. Returns where a partition went back."""
        expected, rewinds = self.expected, []
        moved: dict[Part, int] = {}
        for part, message in messages:
            offset = message.offset()
            before = moved.get(part, expected.get(part, offset))
            if offset < before:
                rewinds.append(Rewind(part, before, offset))
            moved[part] = offset + 1
        expected.update(moved)
        self.done.update(moved)
        return rewinds

    def committed(self, offsets: dict[Part, int]) -> None:
        """The broker knows these. What was finished meanwhile stays to be committed."""
        for part, offset in offsets.items():
            if self.done.get(part) == offset:
                del self.done[part]


class Reaction(Enum):
    """What to do about an error of Kafka."""

    #: Part of the ordinary course.
    IGNORE = "ignore"
    #: Keep the offsets of what is still ours, go on; the next commit or rebalance settles it.
    GO_ON = "go on"
    #: As GO_ON, and somebody should know.
    DEGRADED = "degraded"
    #: Going on cannot help: end, and let whoever started this decide.
    END = "end"


#: A commit that came too late for its generation; `retriable()` is False for all of them.
REBALANCE_CODES: Final = frozenset(
    {
        "REBALANCE_IN_PROGRESS",
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "STALE_MEMBER_EPOCH",
        "FENCED_MEMBER_EPOCH",
    }
)
_ENDING: Final = frozenset(
    {
        "_FATAL",
        "FENCED_INSTANCE_ID",
        "GROUP_AUTHORIZATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "UNSUPPORTED_ASSIGNOR",
        "INCONSISTENT_GROUP_PROTOCOL",
    }
)
_ORDINARY: Final = frozenset({"_PARTITION_EOF", "_NO_OFFSET"})
_PASSING: Final = frozenset({"_WAIT_COORD", "_TRANSPORT", "_MAX_POLL_EXCEEDED", "_ASSIGNMENT_LOST", "_STATE"})


def reaction_to(name: str, *, fatal: bool = False) -> Reaction:
    """Judge an error by its name; what librdkafka says of retrying is about the call, not about the consumer."""
    if fatal or name in _ENDING:
        return Reaction.END
    if name in _ORDINARY:
        return Reaction.IGNORE
    if name in REBALANCE_CODES or name in _PASSING:
        return Reaction.GO_ON
    return Reaction.DEGRADED


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that were never read and are no longer there, or a topic that began anew."""

    part: Part
    #: The offset that was next, and the one at which reading goes on.
    expected: int
    found: int
    #: `too_old` or `recreated`.
    kind: str

    def __str__(self) -> str:
        topic, number = self.part
        if self.kind == "recreated":
            return (
                f"{topic}/{number} ends at {self.found}, before offset {self.expected} that was next: "
                "the topic was made anew, and is read from its beginning"
            )
        return f"{topic}/{number}: offsets {self.expected} to {self.found - 1} were deleted before they were read"


def gap_between(part: Part, committed: int | None, low: int, high: int) -> Gap | None:
    """Compare what was committed with what the partition holds; None where nothing is missing."""
    if committed is None or committed < 0 or low <= committed <= high:
        return None
    if committed < low:
        return Gap(part, committed, low, "too_old")
    return Gap(part, committed, high, "recreated")
