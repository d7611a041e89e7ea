"""Answers as JSON, by orjson: what the API sends, whatever path a call took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, Any, Final

import orjson
from django.http import HttpResponse, StreamingHttpResponse

from orchestrator.api.following import FollowedLog, Form

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def answer(data: Any, *, status: int = 200) -> HttpResponse:
    """Return the data as a JSON answer."""
    return HttpResponse(_dump(data), status=status, content_type="application/json")


def _dump(data: Any) -> bytes:
    try:
        return orjson.dumps(data, option=_OPTIONS, default=_plain)
    except TypeError:
        # Integers beyond 64 bits, which JSON in the database may hold.
        import json

        return json.dumps(data, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


class HeldAnswer(HttpResponse):
    """An answer as of now, and how to give it later: the ASGI server holds it until the run has ended.

    Another server sends what it already holds, so a caller always gets the run, only sooner.
    """

    def __init__(self, now: HttpResponse, *, run_id: int, seconds: float, later: Callable[[], HttpResponse]) -> None:
        super().__init__(now.content, status=now.status_code, content_type=now["Content-Type"])
        self.run_id = run_id
        self.seconds = seconds
        self.later = later


class FollowingAnswer(HttpResponse):
    """A log as of now, and how to follow it: the ASGI server sends what comes later.

    Another server sends what it already holds, so a caller always gets that, and reads on from its end.
    """

    def __init__(self, now: bytes, *, followed: FollowedLog, form: Form) -> None:
        super().__init__(now, content_type=form.content_type)
        self["Cache-Control"] = "no-store"
        # nginx would gather the pieces and send them when they fill its buffer.
        self["X-Accel-Buffering"] = "no"
        self.followed = followed
        self.form = form


class FileAnswer(StreamingHttpResponse):
    """An answer of any size, sent in pieces from an open file; the caller's pace holds a file, not a thread."""

    PIECE_BYTES: Final = 256 * 1024

    def __init__(self, file: IO[bytes], *, size: int, content_type: str) -> None:
        self.pieces = _pieces(file, self.PIECE_BYTES)
        super().__init__(self.pieces, content_type=content_type)
        self["Content-Length"] = str(size)


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    with file:
        while piece := file.read(size):
            yield piece
