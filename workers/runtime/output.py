"""What an attempt says, made fit to be kept: secrets masked, bounded in size, readable while it runs."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

from orchestrator.errors import UpbeatError
from orchestrator.store import LogCut, Store
from workers.executors.base import ExecutionResult

STARS = b"***"
#: Shorter secrets are not masked: stars for every `1` would say more than they hide.
LEAST_SECRET = 3
#: Lines of a secret of several lines (a key file) and encoded forms are masked from this length on.
LEAST_PART = 6
#: Letters in a line of base64 as `base64` and as `openssl` write it.
BASE64_LINES = (76, 64)
#: What clients that encode no more than they must leave alone in a URL's path and query.
PATH_SAFE = "%!$&'()*+,/:;=@[]\\^|~"
QUERY_SAFE = PATH_SAFE + "?`{}"
LOG_BYTES = 100 * 1024 * 1024
#: What is kept of the end of a log that grew past its cap: errors stand at the end.
TAIL_BYTES = 64 * 1024
#: A written line is in the store within this many seconds …
FLUSH_SECONDS = 0.2
#: … or at once when so much has gathered.
FLUSH_BYTES = 256 * 1024
#: The longest reason that the ledger shows.
REASON_CHARACTERS = 500


class Mask:
    """Replaces secrets by stars, also where they stand encoded: base64, URL, JSON, hexadecimal."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # Longest first: a secret that begins another must not leave the other's end behind.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._longest = max((len(form) for form in forms), default=0)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too, from now on: what an executor learns while it runs, before it can say it."""
        forms = {*self._forms, *(form for secret in secrets for form in _forms(secret))}
        self._longest = max((len(form) for form in forms), default=0)
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def output(self, data: bytes) -> bytes:
        for form in self._forms:
            if form in data:
                data = data.replace(form, STARS)
        return data

    def text(self, text: str) -> str:
        return self.output(text.encode(errors="surrogatepass")).decode(errors="surrogatepass") if self._forms else text

    def value(self, value: Any) -> Any:
        """Mask every text in JSON data, keys too."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # A PIN is a number to JSON.
            masked = self.text(str(value))
            return value if masked == str(value) else masked
        return value

    def result(self, result: ExecutionResult) -> ExecutionResult:
        """Mask what an executor hands back, and make its reason one line that the ledger can hold."""
        words = "".join(c if c.isprintable() else " " for c in self.text(result.reason))
        return replace(result, reason=words.strip()[:REASON_CHARACTERS], result=self.value(result.result))

    def cut(self, data: bytes) -> int:
        """Return where output may be cut: what follows may be part of a secret whose rest has not come yet."""
        at = len(data) - self._begun(data)
        # A secret that is whole must not be cut either; a chain of them, each beginning in the one before, is
        # followed only so far.
        for _ in range(64):
            starts = (data.find(form, max(0, at - len(form) + 1), at + len(form) - 1) for form in self._forms)
            across = [start for start in starts if start >= 0]
            if not across:
                break
            at = min(across)
        return at

    def _begun(self, data: bytes) -> int:
        """Return how many last bytes are the beginning of a secret."""
        start = max(0, len(data) - self._longest + 1)
        longest = 0
        for form in self._forms:
            at = data.find(form[:1], max(start, len(data) - len(form) + 1))
            while at >= 0 and len(data) - at > longest:
                if form.startswith(data[at:]):
                    longest = len(data) - at
                    break
                at = data.find(form[:1], at + 1)
        return longest


def _forms(secret: str) -> Iterator[bytes]:
    if len(secret.strip()) < LEAST_SECRET:
        return
    # A secret that came from a file ends with a newline that is no part of it.
    for text in {secret, secret.strip()}:
        raw = text.encode(errors="surrogatepass")
        yield raw
        for ascii_only in (True, False):
            yield json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode(errors="surrogatepass")
        urls = (
            quote(raw, safe=""),
            quote(raw),
            quote_plus(raw),
            quote(raw, safe=PATH_SAFE),
            quote(raw, safe=QUERY_SAFE),
        )
        for encoded in (*urls, raw.hex(), raw.hex().upper()):
            yield from _long_enough(encoded.encode())
            if "%" in encoded:
                yield from _long_enough(encoded.replace("%", "\0").lower().replace("\0", "%").encode())
        for place in range(3):
            yield from _base64_at(raw, place)
    lines = secret.splitlines()
    if len(lines) > 1:
        # A key file may be shown line by line, and its lines indented.
        for line in lines:
            yield from _long_enough(line.strip().encode(errors="surrogatepass"))


def _base64_at(raw: bytes, place: int) -> Iterator[bytes]:
    # Three bytes become four letters, so a secret inside a longer text (`user:secret`) looks different at each of
    # three places; letters that also hold bits of its neighbours are left out.
    letters = base64.b64encode(bytes(place) + raw).rstrip(b"=")
    first = (0, 2, 3)[place]
    whole = len(letters) if (place + len(raw)) % 3 == 0 else len(letters) - 1
    parts = [letters[first:whole]]
    if place == 0:
        # `base64` and `openssl` break their lines.
        parts += [letters[at : min(at + width, whole)] for width in BASE64_LINES for at in range(0, whole, width)]
    for part in parts:
        yield from _long_enough(part)
        yield from _long_enough(part.translate(bytes.maketrans(b"+/", b"-_")))


def _long_enough(form: bytes) -> Iterator[bytes]:
    if len(form) >= LEAST_PART:
        yield form


class AttemptLog:
    """The log sink of one attempt. A store that fails costs log lines, which are counted, never the attempt."""

    def __init__(self, store: Store, key: str, *, mask: Mask | None = None, cap: int = LOG_BYTES) -> None:
        self._store = store
        self._key = key
        self._mask = mask or Mask()
        self._cap = cap
        self._wake = threading.Condition()
        self._held = b""  # may be the beginning of a secret
        self._buffer = bytearray()
        self._flushed_at = float("-inf")
        self._flusher: threading.Thread | None = None
        self._closed = False
        self._tail = b""
        self.kept = 0  # bytes that went towards the cap
        self.dropped = 0  # bytes above the cap
        self.lost = 0  # bytes that the store would not take
        self.problem = ""  # the store's words

    def write(self, chunk: bytes) -> None:
        with self._wake:
            if self._closed:
                return
            data = self._held + chunk
            at = self._mask.cut(data)
            self._held = data[at:]
            self._take(self._mask.output(data[:at]))
            if len(self._buffer) >= FLUSH_BYTES or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self._flush()
            elif self._buffer and self._flusher is None:
                # Only a log that is written to more often than it is flushed needs someone to remember the rest.
                self._start_flusher()

    def note(self, sentence: str) -> None:
        """Add a line of ours, which reads as such; never dropped by the cap."""
        with self._wake:
            self._take(self._mask.output(self._held))
            self._held = b""
            self._append_line(sentence)

    def close(self) -> None:
        """Write the rest and say what is missing; safe to call twice."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._take(self._mask.output(self._held))
            self._held = b""
            self._flush()
            if self.dropped:
                left_out = self.dropped - len(self._tail)
                if left_out:
                    self._append_line(f"{left_out} bytes are left out here; the end follows")
                self._buffer += self._tail
                self._flush()
            if lost := self.lost:
                self._append_line(f"{lost} bytes of this log could not be kept: {self.problem}")
                self._flush()
                self.lost = lost  # the command's bytes; this line may have failed like them
            try:
                self._store.finish(self._key)
            except LogCut as error:
                self.lost += error.lost
                self.problem = error.message
            self._wake.notify_all()
            flusher = self._flusher
        if flusher is not None:
            flusher.join()

    def _take(self, data: bytes) -> None:
        room = self._cap - self.kept
        if len(data) <= room:
            self._buffer += data
            self.kept += len(data)
            return
        if not self.dropped:
            self._buffer += data[:room]
            self.kept += room
            self._append_line(f"this log reached its limit of {self._cap} bytes; more is not kept, but for its end")
            data = data[room:]
        self.dropped += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:] if len(data) < TAIL_BYTES else data[-TAIL_BYTES:]

    def _append_line(self, sentence: str) -> None:
        if self._buffer and not self._buffer.endswith(b"\n"):
            self._buffer += b"\n"
        self._buffer += f"[upbeat] {sentence}\n".encode()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if not self._buffer:
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            self._store.append(self._key, data)
        except UpbeatError as error:
            self.lost += len(data)
            self.problem = error.message

    def _start_flusher(self) -> None:
        flusher = threading.Thread(target=self._flush_later, name="attempt-log", daemon=True)
        try:
            flusher.start()
        except RuntimeError:  # no thread to be had
            self._flush()
        else:
            self._flusher = flusher

    def _flush_later(self) -> None:
        with self._wake:
            while not self._closed:
                self._wake.wait(max(0.0, self._flushed_at + FLUSH_SECONDS - time.monotonic()) or FLUSH_SECONDS)
                if self._buffer and time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                    self._flush()


class LastLine:
    """Remembers the last line with something in it, in bounded memory: the result of `result: json`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last = b""
        self._pieces: list[bytes] = []
        self._size = 0
        #: The line in question was longer than the limit.
        self.too_long = False
        self._last_too_long = False

    def feed(self, chunk: bytes) -> None:
        head, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._add(chunk)
            return
        first, newline, others = head.partition(b"\n")
        self._add(first)
        self._end_line()
        for line in reversed(others.split(b"\n")) if newline else ():
            if line.strip():
                self._last, self._last_too_long = line, False
                break
        self._add(rest)

    def line(self) -> bytes:
        """Return the line, after the last `feed`."""
        self._end_line()
        self.too_long = self._last_too_long
        return self._last

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._limit:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _end_line(self) -> None:
        if self._size > self._limit:
            self._last, self._last_too_long = b"", True
        elif (line := b"".join(self._pieces)).strip():
            self._last, self._last_too_long = line, False
        self._pieces, self._size = [], 0


class Lines:
    """Passes on whole lines, so that two streams in one log do not tear each other's lines apart."""

    def __init__(self, write: Callable[[bytes], None], *, longest: int = 64 * 1024) -> None:
        self._write = write
        self._longest = longest
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        end = data.rfind(b"\n") + 1
        if not end and len(data) > self._longest:
            end = len(data)
        self._rest = data[end:]
        if end:
            self._write(data[:end])

    def close(self) -> None:
        if self._rest:
            self._write(self._rest)
            self._rest = b""
