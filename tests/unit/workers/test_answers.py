from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.answers import Body, Garbled, TooLarge, UnknownEncoding, text_of


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "": lambda data: data,
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:]),
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
}


@given(st.binary(max_size=3000), st.lists(st.integers(0, 50), max_size=60), st.sampled_from(sorted(PACKED)))
def test_a_body_is_the_same_however_it_is_packed_and_cut(data: bytes, sizes: list[int], encoding: str) -> None:
    body = Body(encoding, 10_000)

    body.take(cut(PACKED[encoding](data), sizes))

    assert bytes(body.data) == data


@given(st.integers(0, 4000), st.integers(1, 3999), st.sampled_from(sorted(PACKED)))
def test_a_body_above_its_limit_is_cut_there(size: int, limit: int, encoding: str) -> None:
    body = Body(encoding, limit)
    packed = PACKED[encoding](bytes(size))

    if size > limit:
        with pytest.raises(TooLarge):
            body.take([packed])
    else:
        body.take([packed])

    assert len(body.data) == min(size, limit)


@given(st.binary(min_size=1, max_size=500))
def test_what_is_not_packed_is_garbled_or_at_least_bounded(data: bytes) -> None:
    body = Body("gzip", 1000)

    with pytest.raises((Garbled, TooLarge)):
        body.take([b"\x1f\x8b\x00" + data])


def test_a_packed_body_that_ends_early_is_garbled() -> None:
    with pytest.raises(Garbled, match="too early"):
        Body("gzip", 1000).take([gzip.compress(b"x" * 100)[:-1]])


def test_an_empty_body_is_empty_in_every_encoding() -> None:
    for encoding in PACKED:
        body = Body(encoding, 10)
        body.take([])
        assert body.data == b""


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,br", "nonsense"])
def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(UnknownEncoding):
        Body(encoding, 10)


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        ("Grüße".encode(), "application/json", "Grüße"),
        ("Grüße".encode("latin-1"), 'text/plain; charset="ISO-8859-1"', "Grüße"),
        ("Grüße".encode("utf-16"), "text/plain;charset=utf-16", "Grüße"),
        (b"\xff", "text/plain", "�"),
        (b"abc", "text/plain; charset=zip", "abc"),
        (b"abc", "text/plain; charset=no-such-charset", "abc"),
        (b"abc-", "text/plain; charset=punycode", "abc-"),
        (b"\\u0041", "text/plain; charset=unicode_escape", "\\u0041"),
    ],
)
def test_text_is_read_in_the_charset_that_it_names(data: bytes, content_type: str, text: str) -> None:
    assert text_of(data, content_type) == text
