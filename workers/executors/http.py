"""`http`: one request, and what its answer means.

What leaves this host goes to an address that was checked, and whatever the server does, the attempt ends at its
deadline. A failure before anything was sent is retryable; one after that is unknown, for the server may have acted on
it, whatever the method: that repeating does no harm is the task's to declare.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import unquote

from orchestrator.expressions.program import NotEvaluated
from orchestrator.units import size_text
from workers.executors.base import ExecutionContext, ExecutionResult, FailureKind
from workers.executors.http_fields import TYPE, BadField, HttpConfig, read_config, without_credentials
from workers.runtime import wire
from workers.runtime.addresses import allowed_of
from workers.runtime.answers import ACCEPTED, Body, Garbled, TooLarge, UnknownEncoding, text_of

if TYPE_CHECKING:
    import httpx

__all__ = ["TYPE", "HttpExecutor"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Client errors that time may heal.
RETRYABLE = frozenset({408, 425, 429})
#: Methods that ask and do not act (RFC 9110, 9.2.1).
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Answers that have no body by definition.
BODILESS = frozenset({204, 205, 304})

#: What the log shows of the body of a failed request, and what is read of it so that a secret at the cut is whole.
EXCERPT_BYTES = 1024
READ_AT_FAILURE = 64 * 1024
#: Seconds that the excerpt of a failure is worth.
EXCERPT_SECONDS = 3.0
#: Of an address and of a header's value, the log shows so many characters.
SHOWN_CHARACTERS = 1024

#: A name, or an address of either kind. httpx would encode anything else and have it looked up.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
#: Header fields whose values are nobody's business, and those that only sound so.
_SECRETIVE = re.compile(r"auth|cookie|token|secret|key|passw|signature|credential|session", re.IGNORECASE)
_HARMLESS = frozenset({"www-authenticate", "proxy-authenticate", "idempotency-key", "x-idempotency-key"})
#: What another server than the one that a task names may be told.
_NEUTRAL = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})


class Failed(Exception):
    """Control flow: how the attempt ends."""

    def __init__(self, kind: FailureKind, reason: str, *, retry_after: float | None = None) -> None:
        self.result = replace(ExecutionResult.failed(kind, reason), retry_after=retry_after)
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an attempt: the task's own, or one that a redirect asks for."""

    method: str
    url: httpx.URL
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, its body not yet read."""

    status: int
    #: Names in lower case; values of the same name joined, as RFC 9110 allows.
    headers: Mapping[str, str]
    pieces: Iterator[bytes]
    wire: wire.Wire


class HttpExecutor:
    """Sends requests. Nothing is kept between attempts: no cookies, no connections, no proxies of the environment."""

    def __init__(self, *, resolve: wire.Resolve = wire.resolve) -> None:
        self._resolve = resolve

    def execute(self, context: ExecutionContext) -> ExecutionResult:
        try:
            config = read_config(context.config)
        except BadField as problem:
            return ExecutionResult.failed(FailureKind.PERMANENT, problem.words(context.redact))
        with closing(wire.Watch(context.timeout, context.stop)) as watch:
            exchange = _Exchange(context, config, watch, self._resolve)
            try:
                return ExecutionResult.succeeded(exchange.run())
            except Failed as failed:
                return failed.result
            except wire.Stopped:
                return ExecutionResult.failed(FailureKind.STOPPED, context.stop.reason or "stopped")
            except wire.DeadlinePassed:
                reason = f"timed out after {context.timeout:g} s, while {exchange.doing}"
                return ExecutionResult.failed(FailureKind.TIMEOUT, reason)


class _Exchange:
    """One attempt: the request, the redirects it is sent on, the verdict."""

    def __init__(self, context: ExecutionContext, config: HttpConfig, watch: wire.Watch, resolve: wire.Resolve) -> None:
        self._context = context
        self._config = config
        self._watch = watch
        self._resolve = resolve
        self._began = time.monotonic()
        self.doing = "connecting"
        #: A server has acted on a request of this attempt, so that no later failure means "nothing was sent".
        self._acted = False

    def run(self) -> Any:
        """Return the result of a request that met its expectations; raises Failed, Stopped, DeadlinePassed."""
        self._watch.check()
        call = self._first()
        for followed in range(self._config.follow_redirects + 1):
            with self._answer(call) as answer:
                if self._is_expected(answer.status) or answer.status not in REDIRECTS:
                    return self._judge(call, answer)
                if followed == self._config.follow_redirects:
                    self._refuse_redirect(call, answer)
                call = self._redirected(call, answer)
        raise AssertionError("the last redirect is refused")

    def _first(self) -> Call:
        import httpx

        config = self._config
        try:
            url = httpx.URL(config.url)
        except httpx.InvalidURL:
            url = None
        if url is None or not _is_callable(url):
            # Not shown, nor in the library's words: where a password ends is what cannot be told.
            raise Failed(FailureKind.PERMANENT, "url: not an address that can be called: its host or port is none")
        defaults = {"Accept": "*/*", "Accept-Encoding": ACCEPTED, "User-Agent": "Upbeat"}
        if config.content_type:
            defaults["Content-Type"] = config.content_type
        if url.userinfo:
            defaults["Authorization"] = _basic(url.username, url.password)
        given = {name.lower() for name, _ in config.headers}
        headers = tuple((name, value) for name, value in defaults.items() if name.lower() not in given)
        return Call(config.method, url, (*headers, *config.headers), config.body)

    @contextmanager
    def _answer(self, call: Call) -> Iterator[Answer]:
        """Send a request and yield its answer; the connection closes with the block."""
        import httpcore
        import httpx

        scheme, host = call.url.scheme, call.url.raw_host.decode("ascii")
        secure = scheme == "https"
        port = call.url.port or (443 if secure else 80)
        request = httpx.Request(
            call.method,
            call.url.copy_with(userinfo=b""),
            headers=[(name.encode(), value.encode()) for name, value in (*call.headers, ("Connection", "close"))],
            content=call.body,
        )
        self._say_request(call, request)
        self.doing = "connecting"
        sent = False
        try:
            with wire.dial(
                host,
                port,
                allowed=allowed_of(self._context.allowed_networks),
                watch=self._watch,
                within=self._config.connect_timeout,
                patience=self._config.read_timeout,
                tls=_tls(self._config.tls_verify) if secure else None,
                resolve=self._resolve,
            ) as line:
                self._say(f"  connected to {line.peer}{self._protection(line)}")
                self.doing = "waiting for the answer"
                target = httpcore.URL(
                    scheme=scheme.encode(), host=host.encode(), port=port, target=request.url.raw_path
                )
                connection = httpcore.HTTP11Connection(target.origin, cast(httpcore.NetworkStream, line))
                try:
                    response = connection.handle_request(
                        httpcore.Request(call.method, target, headers=request.headers.raw, content=call.body)
                    )
                    self.doing = "reading the answer"
                    answer = Answer(response.status, _joined(response.headers), response.iter_stream(), line)
                    self._say_answer(answer, response)
                    yield answer
                finally:
                    sent = line.sent
        except wire.AddressRefused as problem:
            raise Failed(FailureKind.PERMANENT, f"not allowed: {problem}") from None
        except wire.TlsFailed as problem:
            raise Failed(FailureKind.PERMANENT, f"TLS with {host} port {port}: {problem}") from None
        except wire.NotConnected as problem:
            raise self._lost(False, str(problem)) from None
        except wire.Silent:
            raise self._lost(sent, f"nothing came for {self._config.read_timeout:g} s (timeouts.read)") from None
        except wire.Broken as problem:
            raise self._lost(sent, f"the connection broke: {problem}") from None
        except httpcore.RemoteProtocolError as problem:
            raise self._lost(sent, f"no proper answer: {problem}") from None
        except httpcore.LocalProtocolError as problem:
            raise Failed(FailureKind.PERMANENT, f"the request is no proper HTTP: {problem}") from None
        except Garbled as problem:
            raise self._lost(sent, f"the answer's body cannot be decoded: {problem}") from None

    def _lost(self, sent: bool, reason: str) -> Failed:
        if sent or self._acted:
            return Failed(FailureKind.UNKNOWN, f"{reason}; while {self.doing}, after the request was sent")
        return Failed(FailureKind.RETRYABLE, reason)

    def _judge(self, call: Call, answer: Answer) -> Any:
        if not self._is_expected(answer.status):
            some = self._some_of(answer)
            self._say_end(f"{len(some)} bytes of body read")
            self._say_excerpt(answer, some)
            self._refuse_status(answer)
        body = self._body(call, answer)
        self._say_end(f"{len(body)} bytes of body")
        try:
            return self._result(call, answer, body)
        except Failed:
            self._say_excerpt(answer, body[:READ_AT_FAILURE])
            raise

    def _body(self, call: Call, answer: Answer) -> bytes:
        limit = self._config.max_body
        too_large = Failed(FailureKind.PERMANENT, f"the body is larger than max_body ({size_text(limit)})")
        encoding = answer.headers.get("content-encoding", "")
        length = answer.headers.get("content-length", "")
        if call.method != "HEAD" and not encoding and length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        try:
            body = Body(encoding, limit)
        except UnknownEncoding:
            raise Failed(
                FailureKind.PERMANENT, f"the body comes as {encoding[:60]!r}, which was not asked for"
            ) from None
        try:
            body.take(answer.pieces)
        except TooLarge:
            self._say_end(f"more than {limit} bytes of body")
            self._say_excerpt(answer, bytes(body.data[:READ_AT_FAILURE]))
            raise too_large from None
        return bytes(body.data)

    def _some_of(self, answer: Answer) -> bytes:
        """Return the beginning of a body whose rest decides nothing: what comes soon, undisturbed by how it ends."""
        import httpcore

        with suppress(UnknownEncoding):
            body = Body(answer.headers.get("content-encoding", ""), READ_AT_FAILURE)
            answer.wire.hurry(EXCERPT_SECONDS)
            with suppress(
                TooLarge, Garbled, wire.Silent, wire.Broken, wire.DeadlinePassed, httpcore.RemoteProtocolError
            ):
                body.take(answer.pieces)
            return bytes(body.data)
        return b""

    def _is_expected(self, status: int) -> bool:
        if self._config.statuses is None:
            return 200 <= status <= 299
        return status in self._config.statuses

    def _refuse_status(self, answer: Answer) -> NoReturn:
        status = answer.status
        reason = f"status {_named(status)}"
        if status not in RETRYABLE and status < 500:
            raise Failed(FailureKind.PERMANENT, reason)
        wait = retry_after(answer.headers.get("retry-after", ""), answer.headers.get("date", ""), datetime.now(UTC))
        if wait is not None:
            reason += f", asks to wait {wait:g} s"
        raise Failed(FailureKind.RETRYABLE, reason, retry_after=wait)

    def _result(self, call: Call, answer: Answer, body: bytes) -> Any:
        config = self._config
        wanted = config.result == "body" and answer.status not in BODILESS and call.method != "HEAD"
        if not wanted and config.condition is None:
            return None
        content_type = answer.headers.get("content-type", "")
        data, problem = _json(body)
        if config.condition is not None:
            values = {
                "status": answer.status,
                "headers": answer.headers,
                "json": data,
                "text": text_of(body, content_type),
            }
            outcome = config.condition.evaluate(values)
            if isinstance(outcome, NotEvaluated):
                reason = f"expect.body could not be evaluated: {outcome.reason}"
                raise Failed(FailureKind.RETRYABLE, reason)
            if not outcome:
                raise Failed(FailureKind.RETRYABLE, f"expect.body is false: {_clipped(config.condition.source)}")
        if wanted and problem:
            named = f"content type {_clipped(content_type)}" if content_type else "without a content type"
            raise Failed(FailureKind.PERMANENT, f"result: the body ({named}) {problem}")
        return data if wanted else None

    # Redirects.

    def _refuse_redirect(self, call: Call, answer: Answer) -> NoReturn:
        reason = f"status {_named(answer.status)}"
        if location := answer.headers.get("location"):
            reason += f" to {_clipped(self._masked(without_credentials(location)))}"
        limit = self._config.follow_redirects
        allowed = f"more than {limit} redirects" if limit else "which is not followed"
        raise Failed(FailureKind.PERMANENT, f"{reason}, {allowed} (follow_redirects: {limit})")

    def _redirected(self, call: Call, answer: Answer) -> Call:
        import httpx

        location = answer.headers.get("location", "")
        shown = _clipped(self._masked(without_credentials(location)))
        try:
            url = call.url.join(location).copy_with(userinfo=b"", fragment=None)
        except (httpx.InvalidURL, ValueError):
            url = None
        if not location or url is None or not _is_callable(url):
            reason = f"status {_named(answer.status)} to {shown or 'nowhere'}, which is no address that can be called"
            raise Failed(FailureKind.PERMANENT, reason)
        method, body, headers = call.method, call.body, call.headers
        if (answer.status == 303 and method != "HEAD") or (answer.status in (301, 302) and method == "POST"):
            # As every browser does: the request was acted on, and this asks for its outcome.
            self._acted |= method not in SAFE
            method, body = "GET", None
            headers = tuple(pair for pair in headers if pair[0].lower() != "content-type")
        if not _same_server(call.url, url):
            kept = tuple(pair for pair in headers if pair[0].lower() in _NEUTRAL)
            if dropped := [name for name, _ in headers if name.lower() not in _NEUTRAL]:
                self._say(f"  not sent to another server: {', '.join(dropped)}")
            headers = kept
        return Call(method, url, headers, body)

    # The log.

    def _protection(self, line: wire.Wire) -> str:
        if not line.protocol:
            return ""
        return f" with {line.protocol}{'' if self._config.tls_verify else ', its certificate not checked'}"

    def _say_request(self, call: Call, request: httpx.Request) -> None:
        shown = f"{call.url.scheme}://{request.url.netloc.decode('ascii')}{request.url.raw_path.decode('ascii')}"
        self._say(f"> {call.method} {self._masked(shown)[:SHOWN_CHARACTERS]}")
        for name, value in request.headers.raw:
            self._say_header(">", name.decode(), value.decode(errors="replace"))
        if call.body:
            self._say(f"  {len(call.body)} bytes of body")

    def _say_answer(self, answer: Answer, response: Any) -> None:
        version = response.extensions["http_version"].decode("ascii", "replace")
        phrase = response.extensions["reason_phrase"].decode("ascii", "replace")
        self._say(f"< {version} {answer.status} {phrase[:100]}".rstrip())
        for name, value in answer.headers.items():
            self._say_header("<", name, value)

    def _say_header(self, mark: str, name: str, value: str) -> None:
        secret = _SECRETIVE.search(name) and name.lower() not in _HARMLESS
        self._say(f"{mark} {name}: {'***' if secret else self._masked(value)[:SHOWN_CHARACTERS]}")

    def _say_end(self, what: str) -> None:
        self._say(f"  {what}, {time.monotonic() - self._began:.3f} s in all")

    def _say_excerpt(self, answer: Answer, body: bytes) -> None:
        if not body:
            return
        text = self._masked(text_of(body, answer.headers.get("content-type", "")))
        excerpt = text.encode(errors="replace")[:EXCERPT_BYTES].decode(errors="ignore")
        self._say("  the body begins:")
        self._write(
            "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in excerpt) + "\n"
        )

    def _say(self, line: str) -> None:
        self._write("".join(c if c.isprintable() else " " for c in line) + "\n")

    def _write(self, text: str) -> None:
        self._context.log.write(text.encode(errors="replace"))

    def _masked(self, text: str) -> str:
        """Mask secrets before a text is cut, also those that are encoded in more than one way at a time."""
        once = self._context.redact(text)
        plain = self._context.redact(unquote(once))
        return once if plain == unquote(once) else plain


def retry_after(value: str, date: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, or None.

    A moment is counted from the server's own `Date`, where there is one: its clock may be wrong, and then both are.
    """
    value = value.strip()
    if value.isdecimal() and value.isascii():
        return float(value[:9]) if len(value) <= 9 else 1e9
    then = _moment(value)
    if then is None:
        return None
    return max(0.0, (then - (_moment(date) or now)).total_seconds())


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@lru_cache(maxsize=2)
def _tls(verify: bool) -> ssl.SSLContext:
    """Return what trusts the roots of certifi, as httpx does, and those that the host's owner added."""
    import httpx

    context = httpx.create_ssl_context(verify=verify, trust_env=False)
    if verify:
        context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _joined(headers: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("ascii", "replace").lower(), raw_value.decode(errors="replace")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _json(body: bytes) -> tuple[Any, str]:
    """Return the data and what is wrong with it."""
    if not body.strip():
        return None, "is empty, not JSON"
    try:
        return json.loads(body, parse_constant=_no_constant), ""
    except (ValueError, RecursionError):
        return None, "is not JSON"


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _is_callable(url: httpx.URL) -> bool:
    host = url.raw_host.decode("ascii", "replace")
    port_is_one = url.port is None or 0 < url.port < 65536
    return url.scheme in ("http", "https") and port_is_one and _HOST.fullmatch(host) is not None


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def _same_server(a: httpx.URL, b: httpx.URL) -> bool:
    if a.raw_host != b.raw_host:
        return False
    upgraded = (a.scheme, b.scheme) == ("http", "https") and a.port is None and b.port is None
    return (a.scheme, a.port) == (b.scheme, b.port) or upgraded


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:199]}…"
