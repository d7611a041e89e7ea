"""Bodies of HTTP answers in bounded memory: decoded as they come, counted after decoding, cut or refused at a limit."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Callable, Iterable, Iterator

#: Encodings that are undone here and asked for; one at a time, for each layer may blow up a thousandfold.
ACCEPTED = "gzip, deflate"
#: Either header, zlib's or gzip's.
AUTOMATIC = 32 + zlib.MAX_WBITS
#: Codecs that Python knows by name and no server means; some take quadratic time.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"})
_CHARSET = re.compile(r"charset\s*=\s*\"?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)


class TooLarge(Exception):
    """The body is larger than its limit."""


class Garbled(Exception):
    """The body is not what its encoding says."""


class UnknownEncoding(Exception):
    """The body is encoded in a way that was not asked for."""


class Body:
    """A body as it arrives; `data` has what was decoded so far, at most `limit` bytes."""

    def __init__(self, encoding: str, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit
        self._decode: _Plain | _Inflating
        match encoding.strip().lower():
            case "" | "identity":
                self._decode = _Plain()
            case "gzip" | "x-gzip" | "deflate":
                self._decode = _Inflating()
            case _:
                raise UnknownEncoding(encoding)

    def take(self, pieces: Iterable[bytes]) -> None:
        """Read to the end. Raises TooLarge with the first `limit` bytes kept, Garbled, and what `pieces` raise."""
        for piece in pieces:
            for part in self._decode.feed(piece, self._room):
                self.data += part
                if len(self.data) > self._limit:
                    del self.data[self._limit :]
                    raise TooLarge
        self._decode.finish()

    def _room(self) -> int:
        # One byte more than fits is enough to know that it does not.
        return self._limit - len(self.data) + 1


class _Plain:
    def feed(self, piece: bytes, room: Callable[[], int]) -> Iterator[bytes]:
        yield piece

    def finish(self) -> None:
        pass


class _Inflating:
    """gzip, and deflate in both of the forms that servers send: with zlib's header, as the standard says, and without."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(AUTOMATIC)
        self._head = b""
        self._begun = False

    def feed(self, piece: bytes, room: Callable[[], int]) -> Iterator[bytes]:
        rest = piece
        if not self._begun:
            self._head += piece
            if len(self._head) < 2:  # which form it is shows in two bytes
                return
            rest = self._head
            self._begun = True
            if not _has_header(rest):
                self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while rest:
            if self._inflater.eof:
                # A gzip body may have several members.
                self._inflater = zlib.decompressobj(AUTOMATIC)
            try:
                part = self._inflater.decompress(rest, room())
            except zlib.error as error:
                raise Garbled(str(error)) from None
            rest = self._inflater.unconsumed_tail or self._inflater.unused_data
            if part:
                yield part

    def finish(self) -> None:
        if self._head and not self._inflater.eof:
            raise Garbled("the compressed body ends too early")


def _has_header(data: bytes) -> bool:
    gzip = data[:2] == b"\x1f\x8b"
    return gzip or (data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0)


def text_of(data: bytes, content_type: str) -> str:
    """Return the body as text in the charset that it names, else UTF-8; what is no text becomes replacement marks."""
    named = _CHARSET.search(content_type)
    try:
        charset = codecs.lookup(named[1] if named else "utf-8").name
        return data.decode("utf-8" if charset in _NO_CHARSETS else charset, errors="replace")
    except (LookupError, ValueError):
        return data.decode(errors="replace")
