"""Secrets never pass, logs stay in their bounds, what was written is soon readable."""

from __future__ import annotations

import base64
import json
import random
import resource
import string
import subprocess
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.store import LocalStore, StoreFull, log_key
from tests.support.waiting import eventually
from workers.executors.base import ExecutionResult, FailureKind
from workers.runtime.output import TAIL_BYTES, AttemptLog, LastLine, Lines, Mask

KEY = log_key(1, 1)
SECRET = "p@ss/w0rd+ü&"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


class FullStore(LocalStore):
    """Takes nothing while it is full."""

    full = True

    def append(self, key: str, data: bytes) -> None:
        if self.full:
            raise StoreFull("the store /logs is full: No space left on device")
        super().append(key, data)


# Masking.


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe="").lower(),
        json.dumps(SECRET)[1:-1],
        SECRET.encode().hex(),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_masked_in_every_form(shown: str) -> None:
    masked = Mask([SECRET]).text(f"<{shown}>")

    assert "***" in masked
    assert shown not in masked


@pytest.mark.parametrize("user", ["a", "ab", "abc", "abcd"])
def test_a_secret_is_masked_inside_a_longer_base64_text(user: str) -> None:
    header = base64.b64encode(f"{user}:{SECRET}:end".encode()).decode()

    masked = Mask([SECRET]).text(header)

    # All letters go but the two that also hold bits of the neighbours.
    assert len(header) - len(masked.replace("***", "")) >= len(SECRET.encode()) * 8 // 6 - 1


def test_each_line_of_a_key_file_is_a_secret() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"

    assert "kqhkiG9w0BAQEF" not in Mask([key]).text("  kqhkiG9w0BAQEF\n")


def test_a_secret_from_a_file_is_masked_without_its_newline() -> None:
    assert Mask(["hunter22\n"]).text("hunter22!") == "***!"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    assert Mask(["abcd", "abcdefgh"]).text("abcdefgh abcd") == "*** ***"


def test_texts_too_short_to_be_secrets_are_left_alone() -> None:
    assert Mask(["", "1", " a "]).text("a 1 banana") == "a 1 banana"


def test_results_and_reasons_are_masked() -> None:
    result = ExecutionResult.failed(FailureKind.RETRYABLE, f"no\nlogin with {SECRET}")
    mask = Mask([SECRET, "4711"])

    assert mask.result(result).reason == "no login with ***"
    assert mask.value({SECRET: [f"x{SECRET}", 4711, 5, True, None]}) == {"***": ["x***", "***", 5, True, None]}


SECRETS = [SECRET, "abcabd", "abc-2024", "user-abc-2024-x"]
SHOWN = [
    *SECRETS,
    base64.b64encode(SECRET.encode()).decode(),
    quote(SECRET, safe=""),
    "p@ss",
    "user-abc",
    "x",
    "\n",
    "abc",
    "ü",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(SHOWN), max_size=12), st.data())
def test_no_cut_between_chunks_lets_a_secret_through(words: list[str], data: st.DataObject) -> None:
    text = "".join(words).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    kept: list[bytes] = []

    class Memory(LocalStore):
        def append(self, key: str, data: bytes) -> None:
            kept.append(data)

    log = AttemptLog(Memory(Path("/")), KEY, mask=Mask(SECRETS))
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        log.write(text[begin:end])
    log.close()

    shown = b"".join(kept)
    assert shown == Mask(SECRETS).output(text)


def test_a_secret_that_repeats_itself_is_not_held_back_without_end() -> None:
    mask = Mask(["aaa"])

    assert mask.cut(b"a" * 10_000) > 9_000


@pytest.mark.parametrize("tool", [["base64"], ["base64", "-w", "64"]])
@pytest.mark.parametrize("length", [30, 57, 58, 200, 1000])
def test_a_long_secret_is_masked_in_base64_that_is_broken_into_lines(tool: list[str], length: int) -> None:
    secret = "".join(random.Random(length).choices(string.printable.strip(), k=length))
    shown = subprocess.run(tool, input=f"{secret}\n", capture_output=True, text=True, check=True).stdout

    masked = Mask([secret]).text(shown).replace("***", "").replace("\n", "")

    # The end may stay, where letters also hold the newline: fewer than what is masked at all.
    assert len(masked) < 8


def test_many_secrets_do_not_slow_a_flood_down_to_a_trickle() -> None:
    """The figure of `log_follow` in small: 50 MB/s on an idle machine, a fraction of it on a busy one."""

    class Nowhere(LocalStore):
        def append(self, key: str, data: bytes) -> None:
            return None

    log = AttemptLog(Nowhere(Path("/")), KEY, mask=Mask([SECRET, "another-secret", "postgres://u:hunter2@db/x"]))
    chunk = b"a line of output that says little, 2026-11-21 12:00:00 INFO done\n" * 4000
    began = time.process_time()

    for _ in range(100):
        log.write(chunk)

    assert 100 * len(chunk) / (time.process_time() - began) > 5e6


# The log.


def test_a_line_is_readable_within_a_second_of_being_written(store: LocalStore) -> None:
    log = AttemptLog(store, KEY)

    log.write(b"one\n")
    assert store.read(KEY) == b"one\n"
    log.write(b"two\n")
    log.write(b"no newline yet")

    eventually(lambda: store.read(KEY) == b"one\ntwo\nno newline yet", within=1)
    log.close()


def test_chatter_is_gathered_before_it_is_stored(tmp_path: Path) -> None:
    appended: list[int] = []

    class Counting(LocalStore):
        def append(self, key: str, data: bytes) -> None:
            appended.append(len(data))

    log = AttemptLog(Counting(tmp_path), KEY)
    for _ in range(1000):
        log.write(b"x\n")
    log.close()

    assert sum(appended) == 2000
    assert len(appended) < 20


def test_a_log_past_its_limit_keeps_its_beginning_and_its_end(store: LocalStore) -> None:
    log = AttemptLog(store, KEY, cap=1000)

    log.write(b"first\n" + b"a" * 2000)
    for _ in range(100):
        log.write(b"b" * 10_000)
    log.write(b"\nlast\n")
    log.close()

    text = store.read(KEY)
    assert text.startswith(b"first\naaaa")
    assert text.endswith(b"bbb\nlast\n")
    assert b"\n[upbeat] this log reached its limit of 1000 bytes" in text
    left_out = 2006 - 1000 + 1_000_000 + 6 - TAIL_BYTES
    assert f"[upbeat] {left_out} bytes are left out here".encode() in text
    assert len(text) < 1000 + TAIL_BYTES + 300


def test_a_full_store_costs_lines_but_neither_the_attempt_nor_the_rest(tmp_path: Path) -> None:
    store = FullStore(tmp_path)
    log = AttemptLog(store, KEY)

    log.write(b"lost\n")
    store.full = False
    log.write(b"kept\n")
    log.close()

    assert (log.lost, log.problem) == (5, "the store /logs is full: No space left on device")
    assert store.read(KEY) == (
        b"kept\n[upbeat] 5 bytes of this log could not be kept: the store /logs is full: No space left on device\n"
    )


def test_a_log_closes_twice_and_takes_nothing_afterwards(store: LocalStore) -> None:
    log = AttemptLog(store, KEY)
    log.write(b"a\n")

    log.close()
    log.close()
    log.write(b"b\n")

    assert store.read(KEY) == b"a\n"


def test_a_flood_needs_no_memory(store: LocalStore) -> None:
    log = AttemptLog(store, KEY, mask=Mask([SECRET, "another-secret"]), cap=10_000_000)
    chunk = b"a line of output that says little\n" * 2000
    log.write(chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(1500):
        log.write(chunk)
    log.close()

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB
    assert log.kept == 10_000_000


# Lines.


@given(st.lists(st.sampled_from([b"a", b"\n", b" ", b"bc", b'{"n": 1}', b"\n\n"]), max_size=20))
def test_the_last_line_is_found_however_it_is_cut(pieces: list[bytes]) -> None:
    last = LastLine(1000)
    for piece in pieces:
        last.feed(piece)

    lines = [line for line in b"".join(pieces).split(b"\n") if line.strip()]
    assert last.line() == (lines[-1] if lines else b"")


def test_a_last_line_that_is_too_long_is_not_kept() -> None:
    last = LastLine(10)

    for _ in range(5):
        last.feed(b"12345")

    assert last.line() == b""
    assert last.too_long


def test_two_streams_do_not_tear_each_others_lines() -> None:
    seen: list[bytes] = []
    out, err = Lines(seen.append), Lines(seen.append)

    out.feed(b"hel")
    err.feed(b"error\n")
    out.feed(b"lo\nrest")
    out.close()

    assert b"".join(seen) == b"error\nhello\nrest"


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    seen: list[bytes] = []
    lines = Lines(seen.append, longest=10)

    lines.feed(b"x" * 11)

    assert seen == [b"x" * 11]
