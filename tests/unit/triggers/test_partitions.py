"""What a consumer may use and commit, through assignments, revocations and waits: without a broker."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.listeners.partitions import Gap, Partitions, Reaction, Rewind, gap_between, reaction_to

A, B = ("orders", 0), ("orders", 1)


@dataclass(frozen=True)
class Message:
    at: int

    def offset(self) -> int:
        return self.at


def polled(part: tuple[str, int], *offsets: int) -> list[tuple[tuple[str, int], Message]]:
    return [(part, Message(offset)) for offset in offsets]


def taken(parts: Partitions[Message], most: int = 500) -> list[tuple[tuple[str, int], int]]:
    return [(part, message.at) for part, message in parts.ours(parts.take(most))]


def test_what_is_durable_is_committed_once_and_from_the_next_offset() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A, B])

    parts.finish([*polled(A, 5, 6), *polled(B, 9)])

    assert parts.done == {A: 7, B: 10}
    parts.committed({A: 7, B: 10})
    assert parts.done == {}


def test_what_was_finished_during_a_commit_stays_to_be_committed() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.finish(polled(A, 5))
    asked = dict(parts.done)
    parts.finish(polled(A, 6))

    parts.committed(asked)

    assert parts.done == {A: 7}


def test_messages_of_a_partition_that_left_in_mid_batch_are_not_used_and_not_committed() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A, B])
    parts.keep([*polled(A, 1, 2), *polled(B, 1)])
    batch = parts.take(500)

    assert parts.to_commit({A}) == {}
    parts.forget({A})

    assert parts.ours(batch) == polled(B, 1)
    parts.finish(parts.ours(batch))
    assert parts.done == {B: 2}


def test_a_partition_that_left_and_came_back_brings_no_message_of_before() -> None:
    """Its new start is what is committed; what was polled before is read again."""
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.keep(polled(A, 1, 2))
    parts.forget({A})
    parts.assign([A])
    parts.keep(polled(A, 1))

    assert taken(parts) == [(A, 1)]


def test_a_message_that_arrives_during_a_wait_is_the_head_of_the_next_batch() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.keep(polled(A, 1))
    first = parts.take(500)
    parts.assign([B])  # assigned while the first batch is held
    parts.keep(polled(B, 7))
    parts.keep(polled(A, 2))

    assert parts.ours(first) == polled(A, 1)
    assert taken(parts) == [(B, 7), (A, 2)]


def test_a_batch_takes_the_oldest_and_leaves_the_rest() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.keep(polled(A, 1, 2, 3))
    parts.keep(polled(A, 4, 5))

    assert [offset for _, offset in taken(parts, 4)] == [1, 2, 3, 4]
    assert parts.kept == 1
    assert [offset for _, offset in taken(parts, 4)] == [5]


def test_messages_of_a_partition_that_was_never_ours_are_dropped() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.keep([*polled(A, 1), *polled(B, 1)])

    assert taken(parts) == [(A, 1)]


def test_a_revoked_partition_may_still_be_committed_and_a_lost_one_not() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A, B])
    parts.finish([*polled(A, 1), *polled(B, 1)])

    assert parts.to_commit({A}) == {A: 2}
    parts.forget({A})
    parts.forget({B})

    assert parts.done == {}
    assert parts.to_commit({A, B}) == {}


def test_an_offset_below_the_expected_one_tells_of_a_topic_that_was_made_anew() -> None:
    parts: Partitions[Message] = Partitions()
    parts.assign([A])
    parts.finish(polled(A, 10, 11))

    assert parts.finish(polled(A, 0, 1)) == [Rewind(A, 12, 0)]
    assert parts.done == {A: 2}


@given(st.lists(st.sampled_from(["poll", "take", "lose", "assign", "finish"]), max_size=60))
def test_no_offset_is_committed_while_a_message_below_it_is_neither_durable_nor_read_again(steps: list[str]) -> None:
    """One partition with a broker's view of it: an assignment begins at what is committed."""
    parts: Partitions[Message] = Partitions()
    committed, position, owned = 0, 0, False
    durable: set[int] = set()
    batch: list[tuple[int, list[tuple[tuple[str, int], Message]]]] = []
    for step in steps:
        if step == "assign" and not owned:
            parts.assign([A])
            owned, position = True, committed
        elif step == "poll" and owned:
            parts.keep(polled(A, position, position + 1))
            position += 2
        elif step == "take" and not batch:
            batch = parts.take(3)
        elif step == "lose" and owned:
            parts.forget({A})
            owned = False
        elif step == "finish":
            pairs = parts.ours(batch)
            durable |= {message.at for _, message in pairs}
            parts.finish(pairs)
            batch = []
            if parts.done:
                committed = parts.done[A]
                parts.committed(dict(parts.done))

        assert durable >= set(range(committed))
        assert owned or not parts.done


@pytest.mark.parametrize(
    ("committed", "low", "high", "kind"),
    [(None, 5, 9, None), (5, 5, 9, None), (9, 5, 9, None), (4, 5, 9, "too_old"), (10, 0, 9, "recreated")],
)
def test_committed_offsets_outside_of_what_a_partition_holds_are_a_gap(
    committed: int | None, low: int, high: int, kind: str | None
) -> None:
    found = gap_between(A, committed, low, high)

    assert (found.kind if found else None) == kind


def test_a_gap_says_which_offsets_are_gone() -> None:
    assert str(Gap(A, 4, 9, "too_old")) == "orders/0: offsets 4 to 8 were deleted before they were read"


@pytest.mark.parametrize(
    ("name", "reaction"),
    [
        ("REBALANCE_IN_PROGRESS", Reaction.GO_ON),
        ("ILLEGAL_GENERATION", Reaction.GO_ON),
        ("UNKNOWN_MEMBER_ID", Reaction.GO_ON),
        ("STALE_MEMBER_EPOCH", Reaction.GO_ON),
        ("FENCED_MEMBER_EPOCH", Reaction.GO_ON),
        ("_MAX_POLL_EXCEEDED", Reaction.GO_ON),
        ("_WAIT_COORD", Reaction.GO_ON),
        ("_TRANSPORT", Reaction.GO_ON),
        ("_PARTITION_EOF", Reaction.IGNORE),
        ("UNKNOWN_TOPIC_OR_PART", Reaction.DEGRADED),
        ("a code of a later version", Reaction.DEGRADED),
        ("FENCED_INSTANCE_ID", Reaction.END),
        ("GROUP_AUTHORIZATION_FAILED", Reaction.END),
        ("TOPIC_AUTHORIZATION_FAILED", Reaction.END),
        ("_FATAL", Reaction.END),
    ],
)
def test_errors_are_judged_by_name(name: str, reaction: Reaction) -> None:
    assert reaction_to(name) is reaction


def test_a_fatal_error_ends_whatever_its_name() -> None:
    assert reaction_to("ILLEGAL_GENERATION", fatal=True) is Reaction.END
