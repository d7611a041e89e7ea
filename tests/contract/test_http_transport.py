"""The HTTP executor and a server that behaves as badly as it can: breaks off, says nothing, says too much, takes its time."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.executors import Recorder
from tests.contract.http_calls import FIVE_GB, send
from tests.support.http_server import Call, Server, serve
from tests.support.services import free_port
from tests.support.waiting import eventually
from workers.executors.base import FailureKind, StopSignal
from workers.executors.http import HttpExecutor

# Transport: what was never sent is retryable, what was sent and not answered is unknown.


def test_a_refused_connection_is_retryable() -> None:
    port = free_port()

    result = send(f"http://127.0.0.1:{port}/", method="POST", json={})

    assert result.failure is FailureKind.RETRYABLE
    assert result.reason == f"cannot connect to 127.0.0.1 port {port}: Connection refused"


def test_a_name_that_does_not_exist_is_retryable() -> None:
    result = send("http://no-such-host.invalid/", timeouts={"connect": "20s"})

    assert result.failure is FailureKind.RETRYABLE
    assert "no-such-host.invalid could not be looked up" in result.reason


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port that answers no SYN: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        time.sleep(0.1)
        yield listener.getsockname()[1]


def test_a_connection_that_takes_too_long_is_retryable(full_backlog: int) -> None:
    began = time.monotonic()

    result = send(f"http://127.0.0.1:{full_backlog}/", timeouts={"connect": 0.3})

    assert result.failure is FailureKind.RETRYABLE
    assert "no answer within 0.3 s" in result.reason
    assert time.monotonic() - began < 3


def test_connecting_ends_at_the_deadline_and_on_a_stop(full_backlog: int) -> None:
    stop = StopSignal()
    threading.Timer(0.3, stop.request, ["cancelled"]).start()
    began = time.monotonic()

    late = send(f"http://127.0.0.1:{full_backlog}/", timeouts={"connect": "60s"}, timeout=0.3)
    stopped = send(f"http://127.0.0.1:{full_backlog}/", timeouts={"connect": "60s"}, stop=stop)

    assert (late.failure, late.reason) == (FailureKind.TIMEOUT, "timed out after 0.3 s, while connecting")
    assert (stopped.failure, stopped.reason) == (FailureKind.STOPPED, "cancelled")
    assert time.monotonic() - began < 4


def test_a_slow_resolver_ends_at_the_deadline_and_on_a_stop() -> None:
    release = threading.Event()

    def slow(host: str, port: int) -> list[Any]:
        release.wait(20)
        return []

    stop = StopSignal()
    threading.Timer(0.2, stop.request, ["cancelled"]).start()
    executor = HttpExecutor(resolve=slow)

    stopped = send("http://slow.example/", stop=stop, executor=executor)
    late = send("http://slow.example/", timeout=0.2, executor=executor)
    slow_name = send("http://slow.example/", timeouts={"connect": 0.2}, executor=executor)
    release.set()

    assert stopped.failure is FailureKind.STOPPED
    assert late.failure is FailureKind.TIMEOUT
    assert (slow_name.failure, slow_name.reason) == (
        FailureKind.RETRYABLE,
        "slow.example could not be looked up within 0.2 s",
    )


def _silence(call: Call) -> None:
    call.hang()


def _close(call: Call) -> None:
    pass


def _reset(call: Call) -> None:
    call.reset()


def _nonsense(call: Call) -> None:
    call.raw(b"SSH-2.0-OpenSSH_9.2\r\n")


def _endless_headers(call: Call) -> None:
    call.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        call.raw(b"X-More: " + b"x" * 10_000 + b"\r\n")


def _reset_in_the_body(call: Call) -> None:
    call.head(200, content_length="1000")
    call.raw(b"only the beginning")
    time.sleep(0.1)
    call.reset()


def _ends_early(call: Call) -> None:
    call.head(200, content_length="1000")
    call.raw(b"only the beginning")


def _bad_gzip(call: Call) -> None:
    call.reply(200, b"no gzip at all", content_encoding="gzip")


def _cut_gzip(call: Call) -> None:
    call.reply(200, gzip.compress(b"x" * 10_000)[:-9], content_encoding="gzip")


def _silence_in_the_body(call: Call) -> None:
    call.head(200, content_length="1000")
    call.raw(b"only the beginning")
    call.hang()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_silence, "nothing came for 0.4 s (timeouts.read)"),
        (_close, "no proper answer: Server disconnected without sending a response"),
        (_reset, "Connection reset by peer"),
        (_nonsense, "no proper answer"),
        (_endless_headers, "no proper answer"),
        (_reset_in_the_body, "Connection reset by peer"),
        (_ends_early, "no proper answer: peer closed connection"),
        (_bad_gzip, "cannot be decoded"),
        (_cut_gzip, "ends too early"),
        (_silence_in_the_body, "nothing came for 0.4 s (timeouts.read)"),
    ],
)
def test_a_request_that_was_sent_and_not_answered_is_unknown(
    server: Server, answer: Callable[[Call], None], reason: str, method: str
) -> None:
    server.answers["/x"] = answer

    result = send(server.url("/x"), method=method, timeouts={"read": 0.4})

    assert result.failure is FailureKind.UNKNOWN
    assert reason in result.reason
    assert "after the request was sent" in result.reason
    assert len(server.seen) == 1


def test_a_failure_stays_what_its_status_says_when_its_body_breaks(server: Server) -> None:
    def answer(call: Call) -> None:
        call.head(503, content_length="1000")
        call.raw(b"out of or")
        call.reset()

    server.answers["/x"] = answer

    assert send(server.url("/x")).reason == "status 503 Service Unavailable"


def test_a_failure_is_known_soon_though_its_body_trickles(server: Server) -> None:
    def answer(call: Call) -> None:
        call.head(500)
        call.trickle(b"ouch ", every=0.2)

    server.answers["/x"] = answer
    log = Recorder()
    began = time.monotonic()

    result = send(server.url("/x"), timeout=60, log=log)

    assert result.reason == "status 500 Internal Server Error"
    assert b"ouch ouch" in log.data
    assert time.monotonic() - began < 8


def test_a_server_may_refuse_a_large_body_before_it_has_read_it(server: Server) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            time.sleep(0.2)
            connection.shutdown(socket.SHUT_RD)
            time.sleep(0.3)
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()

        result = send(f"http://127.0.0.1:{listener.getsockname()[1]}/", method="POST", body="x" * 30_000_000)
        thread.join()

    assert result.reason.startswith(("status 413", "the connection broke"))
    assert result.failure in (FailureKind.PERMANENT, FailureKind.UNKNOWN)


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    with serve() as running:
        yield running


FRAGMENTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 503 No\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 302 Found\r\n",
        b"HTTP/9.9 999 What\r\n", b"HTTP/1.1 204\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", b"\r\n", b"\r\n\r\n",
        b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: deflate\r\n", b"Content-Type: text/html; charset=\xff\r\n", b"Location: http://[::1\r\n",
        b"Location: \x00\r\n", b"Location: /x\r\n", b"Retry-After: \xb2\r\n", b"Retry-After: 5\r\n", b"Date: \r\n", b": \r\n",
        b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"hello", b"\xff\xfe", b"{}", gzip.compress(b"{}"),
    ]
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(FRAGMENTS | st.binary(max_size=30), max_size=12).map(b"".join))
def test_whatever_a_server_says_is_an_outcome_with_a_reason(lasting_server: Server, answer: bytes) -> None:
    lasting_server.answers["/x"] = lambda call: call.raw(answer)

    result = send(
        lasting_server.url("/x"),
        result="body",
        expect={"body": "status == 200"},
        follow_redirects=2,
        timeouts={"read": 2},
        timeout=8,
    )

    assert result.failure is None or result.reason
    assert result.failure not in (FailureKind.TIMEOUT, FailureKind.STOPPED)


# Time.


@pytest.mark.parametrize("where", ["in the status line", "in the headers", "in the body", "in chunks", "before"])
def test_the_deadline_holds_however_slowly_the_server_speaks(server: Server, where: str) -> None:
    def answer(call: Call) -> None:
        if where == "in the body":
            call.head(200, content_length="100000")
        elif where == "in chunks":
            call.head(200, transfer_encoding="chunked")
            call.trickle(b"1\r\na\r\n")
        elif where == "in the headers":
            call.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        elif where == "before":
            call.trickle(b"HTTP/1.1 102 Processing\r\n\r\n")
        else:
            call.raw(b"HTTP/1.1 200 ")
        call.trickle(b"a")

    server.answers["/x"] = answer
    began = time.monotonic()

    result = send(server.url("/x"), timeout=0.8)

    took = time.monotonic() - began
    assert result.failure is FailureKind.TIMEOUT
    assert "timed out after 0.8 s, while" in result.reason
    assert 0.8 <= took < 1.8


def test_a_flood_does_not_outrun_the_deadline(server: Server) -> None:
    empty_member = gzip.compress(b"")

    def answer(call: Call) -> None:
        call.head(200, content_encoding="gzip")
        while True:
            call.raw(empty_member * 3000)

    server.answers["/x"] = answer
    began = time.monotonic()

    result = send(server.url("/x"), timeout=0.8)

    assert result.failure is FailureKind.TIMEOUT
    assert time.monotonic() - began < 3


def test_a_stop_closes_the_connection_at_once(server: Server) -> None:
    gone = threading.Event()

    def answer(call: Call) -> None:
        call.hang()
        gone.set()

    server.answers["/x"] = answer
    stop = StopSignal()
    asked: list[float] = []

    def cancel() -> None:
        eventually(lambda: server.seen)
        asked.append(time.monotonic())
        stop.request("cancelled")

    threading.Thread(target=cancel).start()

    result = send(server.url("/x"), stop=stop)

    assert (result.failure, result.reason) == (FailureKind.STOPPED, "cancelled")
    assert time.monotonic() - asked[0] < 1
    assert gone.wait(1)


def test_a_stop_ends_a_request_that_is_still_being_sent(server: Server) -> None:
    stop = StopSignal()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Timer(0.4, stop.request, ["cancelled"]).start()
        began = time.monotonic()

        result = send(f"http://127.0.0.1:{listener.getsockname()[1]}/", method="POST", body="x" * 50_000_000, stop=stop)

    assert result.failure is FailureKind.STOPPED
    assert time.monotonic() - began < 3


def test_nothing_stays_open_behind_an_attempt(server: Server) -> None:
    server.answers["/ok"] = lambda call: call.reply(200)
    server.answers["/hang"] = _silence
    process = psutil.Process()
    send(server.url("/ok"))
    before = process.num_fds()

    for _ in range(10):
        send(server.url("/ok"))
        send(server.url("/hang"), timeout=0.05)
        send(f"http://127.0.0.1:{free_port()}/")

    # The server's ends of the connections are this process's too, and close a little later.
    eventually(lambda: process.num_fds() <= before + 5)


# Size.


@pytest.mark.parametrize("declared", [True, False])
def test_five_gigabytes_are_refused_without_being_read(server: Server, declared: bool) -> None:
    headers = {"content_length": str(FIVE_GB)} if declared else {}
    sent: list[int] = [0]

    def answer(call: Call) -> None:
        call.head(200, **headers)
        piece = b"x" * 1_000_000
        while sent[0] < FIVE_GB:
            call.raw(piece)
            sent[0] += len(piece)

    server.answers["/x"] = answer
    process = psutil.Process()
    before = process.memory_info().rss
    log = Recorder()

    result = send(server.url("/x"), result="body", log=log)

    assert (result.failure, result.reason) == (FailureKind.PERMANENT, "the body is larger than max_body (4Mi)")
    time.sleep(0.2)
    assert sent[0] < 50_000_000
    assert process.memory_info().rss - before < 60_000_000
    assert len(log.data) < 4096


def test_a_bomb_counts_by_what_comes_out_of_it(server: Server) -> None:
    packer = zlib.compressobj(9, wbits=31)
    megabyte = bytes(1_000_000)
    bomb = b"".join(packer.compress(megabyte) for _ in range(300)) + packer.flush()
    nested = gzip.compress(bomb)
    server.answers["/bomb"] = lambda call: call.reply(200, bomb, content_encoding="gzip")
    server.answers["/nested"] = lambda call: call.reply(200, nested, content_encoding="gzip, gzip")
    server.answers["/brotli"] = lambda call: call.reply(200, b"?", content_encoding="br")
    process = psutil.Process()
    before = process.memory_info().rss

    result = send(server.url("/bomb"))

    assert len(bomb) < 400_000
    assert result.reason == "the body is larger than max_body (4Mi)"
    assert process.memory_info().rss - before < 40_000_000
    for path, named in (("/nested", "'gzip, gzip'"), ("/brotli", "'br'")):
        refused = send(server.url(path))
        assert refused.failure is FailureKind.PERMANENT
        assert f"the body comes as {named}, which was not asked for" in refused.reason


def test_a_body_of_exactly_the_limit_is_read(server: Server) -> None:
    server.answers["/x"] = lambda call: call.reply(200, b"1" * 1024)

    assert send(server.url("/x"), max_body="1Ki").failure is None
    assert send(server.url("/x"), max_body=1023).reason == "the body is larger than max_body (1023)"
