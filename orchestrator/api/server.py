"""The API's part of the ASGI server: calls run on a few threads that live as long as the process.

Django's own handler starts a thread, and with it a database connection, for every request, and hops into it three
times; a trigger call cannot afford that, and the middleware of the admin (session, messages, CSRF) has nothing to
say about a call with a token. Here a call is one hop to a thread whose connection is open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.db import OperationalError, connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import get_resolver
from django.urls.exceptions import Resolver404

from orchestrator import metrics
from orchestrator.api.answers import FileAnswer, FollowingAnswer, HeldAnswer
from orchestrator.api.bodies import TooLarge, largest_body
from orchestrator.api.exceptions import answer_error, error_answer
from orchestrator.api.following import Followers, Seen
from orchestrator.api.waiting import EndPoller
from orchestrator.conf import options
from orchestrator.errors import NotFound, UpbeatError
from orchestrator.registry import PathLimit, path_limits
from orchestrator.selectors.runs import ended_among, ends_of_attempts
from orchestrator.store import store_of_process

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Enough to keep two cores and a database busy; more only compete for the interpreter.
THREADS: Final = 8
#: Read logs for those who follow them; calls that queue for these threads are nobody else's.
FOLLOW_THREADS: Final = 2
#: A body that takes longer is no body: whoever sends a byte now and then must not hold what has come so far.
READ_SECONDS: Final = 30.0
#: A caller that takes nothing for so long is gone, or might as well be.
SEND_SECONDS: Final = 60.0


class ClientGone(Exception):
    """The caller closed the connection; nobody reads an answer. Control flow."""


class ApiServer:
    """An ASGI application for the paths of the API, the probes and the metrics."""

    def __init__(self) -> None:
        # A connection pool is shared with the admin's threads: leave them some.
        pool: int = options().database_pool
        self._threads = ThreadPoolExecutor(max(2, min(THREADS, pool - 2)) if pool else THREADS, "api")
        # Its own thread: calls that queue for the others must not delay those that wait.
        self._poll_thread = ThreadPoolExecutor(1, "api-wait")
        self._poller = EndPoller(self._ended_among)
        self._look_thread = ThreadPoolExecutor(1, "api-look")
        self._follow_threads = ThreadPoolExecutor(FOLLOW_THREADS, "api-follow")
        self._followers = Followers(self._look_at_logs, self._read_log)
        # Imports every view: half a second that the first caller would wait.
        _ = get_resolver(None).url_patterns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = next((limit for limit in path_limits if scope["path"].startswith(limit.prefix)), None)
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await self._read(scope, receive, limit)
        except ClientGone:
            return
        except TimeoutError:
            await _send(send, error_answer(408, "too_slow", f"The body did not arrive within {READ_SECONDS:.0f} s."))
            return
        except TooLarge as error:
            await _send(send, answer_error(error))
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit.answer_within if limit else None):
                answered = await loop.run_in_executor(self._threads, _respond, scope, body)
        except TimeoutError:
            log.warning("a call was not answered in time", extra={"path": scope["path"]})
            answered = answer_error(OperationalError("no answer in time"))
        if isinstance(answered, HeldAnswer):
            if not await self._hold(answered, receive):
                return
            answered = await loop.run_in_executor(self._threads, _answer_late, answered)
        follow: FollowingAnswer | None = None
        if isinstance(answered, FollowingAnswer) and scope["method"] == "GET":
            try:
                self._followers.admit(answered.followed)
                follow = answered
            except UpbeatError as error:
                answered = answer_error(error)
        metrics.API_CALLS.labels(_method(scope), str(answered.status_code)).inc()
        if follow is not None:
            await self._follow(follow, receive, send)
        elif isinstance(answered, FileAnswer):
            await self._send_file(answered, send, head_only=scope["method"] == "HEAD")
        else:
            await _send(send, answered)

    async def _read(self, scope: Scope, receive: Receive, limit: PathLimit | None) -> bytes:
        """Return the body; raises TooLarge as soon as it is, however much of it is still to come."""
        most = largest_body(scope["path"])
        if limit is None:
            return await _read(receive, _declared_length(scope), most)

        async def larger() -> int:
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._threads, _on_this_thread, limit.most, scope["path"])
            except Exception as error:  # a database that is down is for the view to tell, of a body that may be read
                log.warning("the limit of a body is not known", extra={"reason": str(error).strip()})
                return most

        return await _read(receive, _declared_length(scope), most, larger)

    def close(self) -> None:
        """Let running calls end; called once, when the process stops."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for threads in (self._poll_thread, self._look_thread, self._follow_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, answered: FollowingAnswer, receive: Receive, send: Send) -> None:
        """Send a log as it grows, until it is complete or the caller has gone."""
        gone = asyncio.create_task(_disconnected(receive))
        sending = asyncio.create_task(self._send_log(answered, send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            gone.cancel()
            sending.cancel()
            self._followers.dismiss(answered.followed)

    async def _send_log(self, answered: FollowingAnswer, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _headers(answered)})
        async for piece in self._followers.follow(answered.followed, answered.form):
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send_file(self, answered: FileAnswer, send: Send, *, head_only: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            await send({"type": "http.response.start", "status": answered.status_code, "headers": _headers(answered)})
            while not head_only:
                piece = await loop.run_in_executor(self._follow_threads, next, answered.pieces, b"")
                if not piece:
                    break
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            answered.close()

    async def _look_at_logs(self, keys: Mapping[int, str]) -> dict[int, Seen]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._look_thread, _on_this_thread, _look_at_logs, keys)

    async def _read_log(self, key: str, offset: int, limit: int) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._follow_threads, store_of_process().read, key, offset, limit)

    async def _hold(self, held: HeldAnswer, receive: Receive) -> bool:
        """Wait for the end of the run or of the time; false if the caller went away."""
        gone = asyncio.create_task(_disconnected(receive))
        waiting = asyncio.create_task(self._poller.wait(held.run_id, held.seconds))
        try:
            await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done()
        finally:
            gone.cancel()
            waiting.cancel()

    async def _ended_among(self, run_ids: Collection[int]) -> set[int]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._poll_thread, _on_this_thread, ended_among, run_ids)


def _look_at_logs(keys: Mapping[int, str]) -> dict[int, Seen]:
    # The states before the sizes: what an ended attempt wrote is all there.
    ends = ends_of_attempts(keys)
    store = store_of_process()
    return {attempt_id: Seen(store.size(key), ends.get(attempt_id, "gone")) for attempt_id, key in keys.items()}


def _respond(scope: Scope, body: bytes) -> HttpResponse:
    return _on_this_thread(_call_view, scope, body)


def _call_view(scope: Scope, body: bytes) -> HttpResponse:
    try:
        request = ASGIRequest(scope, BytesIO(body))
        request.get_host()  # refuses a Host header that is not ours
        return call_view(request)
    except Exception as error:
        return answer_error(error)


def call_view(request: HttpRequest) -> HttpResponse:
    """Answer a request by the view of its path, without middleware."""
    try:
        match = get_resolver(None).resolve(request.path_info)
    except Resolver404:
        raise NotFound("There is nothing under this path.") from None
    request.resolver_match = match
    answered: HttpResponse = match.func(request, *match.args, **match.kwargs)
    if hasattr(answered, "render") and callable(answered.render):
        answered = answered.render()
    return answered


def _answer_late(held: HeldAnswer) -> HttpResponse:
    try:
        return _on_this_thread(held.later)
    except Exception as error:
        return answer_error(error)


def _on_this_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call with this thread's database connection, and leave it fit for the next call."""
    try:
        return function(*arguments)
    finally:
        if connection.connection is not None and (connection.errors_occurred or connection.in_atomic_block):
            connection.close_if_unusable_or_obsolete()


async def _read(
    receive: Receive, declared: int, most: int, larger: Callable[[], Awaitable[int]] | None = None
) -> bytes:
    """Read a body of at most `most` bytes, or as many as `larger` allows, which is asked once, and only if need be."""
    parts: list[bytes] = []
    size, complete = 0, False
    while True:
        if max(declared, size) > most and larger is not None:
            most, larger = await larger(), None
        if max(declared, size) > most:
            raise TooLarge(f"The body is too large: at most {most} bytes.")
        if complete:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        complete = not message.get("more_body")


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


async def _send(send: Send, answered: HttpResponse) -> None:
    content = answered.content
    headers = [*_headers(answered), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": answered.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _headers(answered: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    headers = {name.lower(): value for name, value in answered.items()}
    headers = {"x-content-type-options": "nosniff", "cache-control": "no-store", **headers}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
