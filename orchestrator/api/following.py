"""Logs that callers follow: what they are sent, and one look for all of them at what has grown.

A follower holds no thread and no database connection: it waits until the look, a few times a second for all the
followed logs together, sees its log grow or end. Nothing runs while nobody follows.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from orchestrator.errors import UpbeatError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
#: While the database or the store does not answer.
RETRY_SECONDS: Final = 1.0
#: A quiet stream says so often that it lives: proxies close what is silent for a minute.
HEARTBEAT_SECONDS: Final = 15.0
#: Then the stream ends and its caller comes back: a token that was revoked meanwhile is found out.
LONGEST_SECONDS: Final = 600.0
#: Read at once; a long log is sent piece by piece, each when the caller has taken the one before.
PIECE_BYTES: Final = 128 * 1024
#: Open streams of a process, and those of one token, so that no token takes them all.
MOST_STREAMS: Final = 1000
MOST_STREAMS_OF_TOKEN: Final = 500


class TooManyStreams(UpbeatError):
    """Too many logs are followed already; try again later."""

    code = "too_many_streams"
    status = 429


@dataclass(frozen=True, slots=True)
class FollowedLog:
    """The log that a caller follows, from an offset in bytes."""

    attempt_id: int
    key: str
    offset: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look saw of a log."""

    size: int
    #: The attempt's final state; empty while it runs.
    ended: str


class Form(Protocol):
    """How a stream is written."""

    content_type: str

    def piece(self, text: str, offset: int) -> bytes: ...

    def heartbeat(self) -> bytes: ...

    def end(self, state: str) -> bytes: ...


class EventForm:
    """Server-sent events: `log` with a text and, as its id, the offset behind it; `end` with the attempt's state."""

    content_type = "text/event-stream; charset=utf-8"

    def piece(self, text: str, offset: int) -> bytes:
        # As JSON, so that line ends of any kind come through an event stream as they are.
        return f"id: {offset}\nevent: log\ndata: {json.dumps({'text': text}, ensure_ascii=False)}\n\n".encode()

    def heartbeat(self) -> bytes:
        return b": still following\n\n"

    def end(self, state: str) -> bytes:
        return f"event: end\ndata: {json.dumps({'state': state})}\n\n".encode()


class TextForm:
    """The log's text alone."""

    content_type = "text/plain; charset=utf-8"

    def piece(self, text: str, offset: int) -> bytes:
        return text.encode()

    def heartbeat(self) -> bytes:
        return b""

    def end(self, state: str) -> bytes:
        return b""


def whole_characters(data: bytes) -> int:
    """Return how many bytes to answer so that no UTF-8 character is cut in two."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if wanted > back else len(data)
    return len(data)


Look = Callable[[Mapping[int, str]], Awaitable[Mapping[int, Seen]]]
Read = Callable[[str, int, int], Awaitable[bytes]]


class Followers:
    """The open streams of this process."""

    def __init__(self, look: Look, read: Read) -> None:
        self._look = look
        self._read = read
        self._waiting: dict[int, dict[asyncio.Future[Seen], int]] = {}
        self._keys: dict[int, str] = {}
        self._looker: asyncio.Task[None] | None = None
        self._open: Counter[int] = Counter()

    def admit(self, followed: FollowedLog) -> None:
        """Count a stream in; raises TooManyStreams. Each one that was let in must be `dismiss`ed."""
        if self._open.total() >= MOST_STREAMS or self._open[followed.token_id] >= MOST_STREAMS_OF_TOKEN:
            raise TooManyStreams
        self._open[followed.token_id] += 1

    def dismiss(self, followed: FollowedLog) -> None:
        self._open[followed.token_id] -= 1
        if not self._open[followed.token_id]:
            del self._open[followed.token_id]

    async def follow(self, followed: FollowedLog, form: Form) -> AsyncIterator[bytes]:
        """Yield the log as it grows, until it is complete or the longest time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_SECONDS
        offset = followed.offset
        while (left := until - loop.time()) > 0:
            seen = await self._news(followed, offset, min(HEARTBEAT_SECONDS, left))
            if seen is None:
                yield form.heartbeat()
                continue
            data = await self._read(followed.key, offset, PIECE_BYTES)
            last = bool(seen.ended) and len(data) < PIECE_BYTES
            if not last:
                data = data[: whole_characters(data)]
            if data:
                offset += len(data)
                yield form.piece(data.decode(errors="replace"), offset)
            if last:
                yield form.end(seen.ended)
                return
            if not data:
                # The look saw more than could be read, such as half a character: once more at the next look.
                await asyncio.sleep(LOOK_SECONDS)

    async def _news(self, followed: FollowedLog, offset: int, seconds: float) -> Seen | None:
        """Wait until the log has more than `offset` bytes or has ended; None after so many seconds."""
        future: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(followed.attempt_id, {})
        waiting[future] = offset
        self._keys[followed.attempt_id] = followed.key
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look_again_and_again())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            waiting.pop(future, None)
            if not waiting and self._waiting.get(followed.attempt_id) is waiting:
                del self._waiting[followed.attempt_id], self._keys[followed.attempt_id]

    async def _look_again_and_again(self) -> None:
        while self._waiting:
            try:
                seen = await self._look(dict(self._keys))
            except Exception as error:  # a database that restarts must not leave the followers waiting for ever
                log.warning("logs cannot be followed", extra={"reason": str(error).strip()})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for attempt_id, found in seen.items():
                for future, offset in list(self._waiting.get(attempt_id, {}).items()):
                    if (found.size > offset or found.ended) and not future.done():
                        future.set_result(found)
            await asyncio.sleep(LOOK_SECONDS)
