"""The HTTP executor under its contract, and against a real server that behaves as badly as it can."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.store import LocalStore, log_key
from tests.contract.executors import LongRunningContract, Recorder, context_for
from tests.support.http_server import Call, Certificate, Server, self_signed, serve
from tests.support.services import free_port
from tests.support.waiting import eventually
from workers.executors import http
from workers.executors.base import ExecutionResult, FailureKind, StopSignal
from workers.executors.http import HttpExecutor

FIVE_GB = 5 * 10**9


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def send(url: str, *, executor: HttpExecutor | None = None, **fields: Any) -> ExecutionResult:
    context = {name: fields.pop(name) for name in ("timeout", "log", "stop", "allowed_networks") if name in fields}
    return (executor or HttpExecutor()).execute(context_for({"url": url, **fields}, Path("/dev/null"), **context))


class TestHttp(LongRunningContract):
    type = "http"
    bad = (
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": 5}, "url"),
        ({"url": "http://a.example/", "method": "BREW"}, "method"),
        ({"url": "http://a.example/", "headers": {"Bad Name": "x"}}, "headers.Bad Name"),
        ({"url": "http://a.example/", "headers": ["A: b"]}, "headers"),
        ({"url": "http://a.example/", "query": "a=b"}, "query"),
        ({"url": "http://a.example/", "body": {"a": 1}}, "body"),
        ({"url": "http://a.example/", "form": "a=b"}, "form"),
        ({"url": "http://a.example/", "expect": {"status": 200}}, "expect.status"),
        ({"url": "http://a.example/", "expect": {"status": [101]}}, "expect.status"),
        ({"url": "http://a.example/", "expect": {"json": 1}}, "expect"),
        ({"url": "http://a.example/", "timeouts": {"total": 3}}, "timeouts"),
        ({"url": "http://a.example/", "tls_verify": "no"}, "tls_verify"),
        ({"url": "http://a.example/", "follow_redirects": 21}, "follow_redirects"),
        ({"url": "http://a.example/", "result": "text"}, "result"),
        ({"url": "http://a.example/", "urll": "x"}, "urll"),
    )
    unusable = (
        ({"url": "ftp://a.example/"}, "url"),
        ({"url": "a.example/path"}, "url"),
        ({"url": "http:///path"}, "url"),
        ({"url": "http://a.example:99999/"}, "url"),
        ({"url": "http://a.example/\r\nX: y"}, "url"),
        ({"url": "http://a.example/", "json": {}, "form": {}}, "form"),
        ({"url": "http://a.example/", "headers": {"X-A": "b\r\nX-C: d"}}, "headers.X-A"),
        ({"url": "http://a.example/", "headers": {"X-A": "b\nc"}}, "headers.X-A"),
        ({"url": "http://a.example/", "headers": {"X-A": "b\0c"}}, "headers.X-A"),
        ({"url": "http://a.example/", "headers": {"X-A": ["b"]}}, "headers.X-A"),
        ({"url": "http://a.example/", "headers": {"Content-Length": "5"}}, "headers.Content-Length"),
        ({"url": "http://a.example/", "headers": {"transfer-encoding": "chunked"}}, "headers.transfer-encoding"),
        ({"url": "http://a.example/", "headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a"),
        ({"url": "http://a.example/", "query": {"a": {"b": 1}}}, "query.a"),
        ({"url": "http://a.example/", "query": {"a": "\ud800"}}, "query.a"),
        ({"url": "http://a.example/", "body": "\ud800"}, "body"),
        ({"url": "http://a.example/", "json": float("nan")}, "json"),
        ({"url": "http://a.example/", "expect": {"body": "json.state =="}}, "expect.body"),
        ({"url": "http://a.example/", "expect": {"body": "'a text'"}}, "expect.body"),
        ({"url": "http://a.example/", "timeouts": {"connect": "5 parsecs"}}, "timeouts.connect"),
        ({"url": "http://a.example/", "timeouts": {"read": 0}}, "timeouts.read"),
        ({"url": "http://a.example/", "max_body": "65Mi"}, "max_body"),
        ({"url": "http://a.example/", "max_body": 0}, "max_body"),
    )

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server
        server.answers["/ok"] = lambda call: call.reply(200, {"state": "accepted"})

    @property
    def good(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"url": self.server.url("/ok"), "expect": {"body": "json.state == 'accepted'"}, "result": "body"}

    def long(self, witness: Path) -> Mapping[str, Any]:
        def answer(call: Call) -> None:
            witness.touch()
            call.head(200, x_state="up")
            call.trickle(witness=witness)

        self.server.answers["/long"] = answer
        return {"url": self.server.url("/long")}

    def telling(self, parameter: str) -> Mapping[str, Any]:
        def answer(call: Call) -> None:
            told = {**dict(call.seen.query), "body": call.seen.body.decode(), "header": call.seen.headers["x-note"]}
            call.reply(200, {**told, "path": call.path}, x_echo=call.seen.headers["x-note"])

        self.server.answers["/telling"] = answer
        value = f"${{params.{parameter}}}"
        return {
            "method": "POST",
            "url": self.server.url("/telling?plain=") + value,
            "query": {"q": value},
            "headers": {"X-Note": value, "Authorization": f"Bearer {value}"},
            "body": f"before {value} after",
            "expect": {"body": "false"},
        }

    def flood(self) -> Mapping[str, Any]:
        def answer(call: Call) -> None:
            call.head(500)
            while True:
                call.raw(b"a line of output that never ends\n" * 2000)

        self.server.answers["/flood"] = answer
        return {"url": self.server.url("/flood")}

    def test_output_is_bounded(self, executor: Any, tmp_path: Path) -> None:
        """The log has the beginning of a failed answer and no more, however much comes."""
        log = Recorder()

        executor.execute(context_for(self.flood(), tmp_path, log=log))

        assert b"a line of output" in log.data
        assert len(log.data) < 4096

    def test_a_secret_in_an_address_is_in_no_output(self, store: LocalStore) -> None:
        """Neither in an encoding that no library has, nor cut in two at the end of what is shown."""
        secret = "p4th/with+odd chars"
        self.server.answers["/redirect"] = lambda call: call.reply(302, location="/" + call.path.partition("?")[2])
        padding = "x" * (1024 - 8)

        def cut(call: Call) -> None:
            call.reply(500, (padding + call.seen.body.decode()).encode())

        self.server.answers["/cut"] = cut
        fields: list[Mapping[str, Any]] = [
            {"url": self.server.url("/no/${params.key}")},
            {"url": self.server.url("/redirect?${params.key}")},
            {"url": self.server.url("/cut"), "method": "POST", "body": "${params.key}"},
            {"url": self.server.url("/ok"), "expect": {"status": [201]}, "headers": {"X-Key": "${params.key}"}},
            {"url": "http://user:${params.key}@[", "headers": {}},
            {"url": self.server.url("/ok"), "max_body": "y" * 100 + "${params.key}"},
        ]

        for number, config in enumerate(fields):
            outcome = self.attempt(
                store,
                config,
                attempt_id=number,
                parameters={"key": {"secret": "k"}},
                secret_parameters=["key"],
                secrets={"k": secret},
            )

            shown = store.read(log_key(7, number)).decode() + repr(outcome)
            assert outcome.result.failure is not None
            assert "p4th" not in shown, config


# What a request is.


def test_a_request_has_what_the_fields_say(server: Server) -> None:
    server.answers["/api/2026-11-21"] = lambda call: call.reply(202, {"state": "accepted"})

    result = send(
        server.url("/api/2026-11-21?a=1"),
        method="POST",
        query={"dry": False, "tag": ["x", "y z"], "left_out": None},
        headers={"X-Day": "  2026-11-21 ", "X-Count": 3, "X-Wide": "naïve"},
        json={"day": "2026-11-21", "n": [1, None]},
        expect={"status": [200, 202], "body": "json.state == 'accepted'"},
        result="body",
    )

    assert (result.failure, result.result) == (None, {"state": "accepted"})
    [seen] = server.seen
    assert seen.method == "POST"
    assert seen.query == [("a", "1"), ("dry", "false"), ("tag", "x"), ("tag", "y z")]
    assert (seen.headers["x-day"], seen.headers["x-count"]) == ("2026-11-21", "3")
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["host"] == f"127.0.0.1:{server.port}"
    assert json.loads(seen.body) == {"day": "2026-11-21", "n": [1, None]}


def test_a_body_is_a_text_or_a_form_and_a_header_may_say_what_it_is(server: Server) -> None:
    server.answers["/ok"] = lambda call: call.reply(200)

    send(server.url("/ok"), method="PUT", body="Grüße")
    send(server.url("/ok"), method="POST", form={"a": 1, "b": ["x&y", "z"]})
    send(server.url("/ok"), method="PATCH", body="<a/>", headers={"content-type": "application/xml"})
    send(server.url("/ok"), method="POST", json=None)

    text, form, xml, null = server.seen
    assert (text.headers["content-type"], text.body.decode()) == ("text/plain; charset=utf-8", "Grüße")
    assert (form.headers["content-type"], form.body) == ("application/x-www-form-urlencoded", b"a=1&b=x%26y&b=z")
    assert (xml.headers["content-type"], xml.body) == ("application/xml", b"<a/>")
    assert null.body == b"null"


def test_a_user_in_the_address_is_sent_as_a_header_and_shown_nowhere(server: Server) -> None:
    log = Recorder()

    result = send(server.url("/no", host="robot:hunter2@127.0.0.1"), log=log)

    assert server.seen[0].headers["authorization"] == "Basic cm9ib3Q6aHVudGVyMg=="
    shown = log.data.decode() + result.reason
    assert "hunter2" not in shown
    assert "cm9ib3Q6aHVudGVyMg" not in shown


def test_the_environment_decides_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.answers["/ok"] = lambda call: call.reply(200)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login robot password hunter2")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    result = send(server.url("/ok"))

    assert result.failure is None
    assert "authorization" not in server.seen[0].headers


def test_cookies_are_not_kept(server: Server) -> None:
    server.answers["/a"] = lambda call: call.reply(302, set_cookie="id=1; Path=/", location="/b")
    server.answers["/b"] = lambda call: call.reply(200)
    executor = HttpExecutor()

    send(server.url("/a"), follow_redirects=1, executor=executor)
    send(server.url("/b"), executor=executor)

    assert len(server.seen) == 3
    assert not any("cookie" in seen.headers for seen in server.seen)


# What an answer means.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (201, None),
        (302, FailureKind.PERMANENT),
        (304, FailureKind.PERMANENT),
        (400, FailureKind.PERMANENT),
        (401, FailureKind.PERMANENT),
        (404, FailureKind.PERMANENT),
        (408, FailureKind.RETRYABLE),
        (425, FailureKind.RETRYABLE),
        (429, FailureKind.RETRYABLE),
        (499, FailureKind.PERMANENT),
        (500, FailureKind.RETRYABLE),
        (503, FailureKind.RETRYABLE),
        (599, FailureKind.RETRYABLE),
    ],
)
def test_the_status_decides_whether_another_try_may_help(server: Server, status: int, kind: FailureKind | None) -> None:
    server.answers["/x"] = lambda call: call.reply(status, b"" if status == 304 else {"why": "because"})

    result = send(server.url("/x"))

    assert result.failure is kind
    assert str(status) in result.reason or kind is None


def test_a_status_that_is_named_is_success_and_one_that_is_not_is_none(server: Server) -> None:
    for status in (200, 302, 404):
        server.answers[f"/{status}"] = lambda call, status=status: call.reply(status, location="/200")

    assert send(server.url("/404"), expect={"status": [404]}).failure is None
    assert send(server.url("/302"), expect={"status": [302]}, follow_redirects=3).failure is None
    assert send(server.url("/200"), expect={"status": [202]}).reason == "status 200 OK"
    assert [seen.path for seen in server.seen] == ["/404", "/302", "/200"]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("json.state == 'accepted' && status == 200", None),
        ("headers['x-left'] == '3' && headers['content-type'].startsWith('application/json')", None),
        ("text.contains('accepted')", None),
        ("json.state == 'done'", "expect.body is false: json.state == 'done'"),
        ("json.nothing.there", "expect.body could not be evaluated: Key not found in map"),
    ],
)
def test_a_condition_reads_status_headers_json_and_text(server: Server, condition: str, reason: str | None) -> None:
    server.answers["/x"] = lambda call: call.reply(200, {"state": "accepted"}, X_Left="3")

    result = send(server.url("/x"), expect={"body": condition})

    assert result.failure is (FailureKind.RETRYABLE if reason else None)
    assert result.reason.startswith(reason or "")


def test_a_body_that_is_no_json_is_null_to_a_condition(server: Server) -> None:
    server.answers["/x"] = lambda call: call.reply(
        200, "Grüße".encode("latin-1"), content_type="text/plain; charset=latin-1"
    )

    assert send(server.url("/x"), expect={"body": "json == null && text == 'Grüße'"}).failure is None


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"<html>", "text/html", "result: the body (content type text/html) is not JSON"),
        (b"{'a': 1}", "application/json", "is not JSON"),
        (b'{"a": NaN}', "application/json", "is not JSON"),
        (b"[" * 100_000, "application/json", "is not JSON"),
        (b"\xff\xfe", "application/json", "is not JSON"),
        (b"", "application/json", "is empty, not JSON"),
    ],
)
def test_a_result_that_is_no_json_is_a_permanent_failure(
    server: Server, body: bytes, content_type: str, reason: str
) -> None:
    server.answers["/x"] = lambda call: call.reply(200, body, content_type=content_type)

    result = send(server.url("/x"), result="body")

    assert result.failure is FailureKind.PERMANENT
    assert reason in result.reason
    assert send(server.url("/x")).failure is None


def test_an_answer_without_a_body_by_definition_has_no_result(server: Server) -> None:
    server.answers["/x"] = lambda call: call.reply(204 if call.command == "DELETE" else 200)

    for method in ("DELETE", "HEAD"):
        result = send(server.url("/x"), method=method, result="body")

        assert (result.failure, result.result) == (None, None)


def test_head_reads_no_body_however_large_it_would_be(server: Server) -> None:
    server.answers["/x"] = lambda call: call.head(200, content_length=str(FIVE_GB))

    assert send(server.url("/x"), method="HEAD").failure is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "two members"])
def test_a_compressed_body_is_read(server: Server, encoding: str) -> None:
    data = json.dumps({"n": list(range(5000))}).encode()
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = {
        "gzip": gzip.compress(data),
        "deflate": zlib.compress(data),
        "raw deflate": raw.compress(data) + raw.flush(),
        "two members": gzip.compress(data[:100]) + gzip.compress(data[100:]),
    }[encoding]
    header = "deflate" if "deflate" in encoding else "gzip"
    server.answers["/x"] = lambda call: call.reply(200, packed, content_encoding=header)

    def in_pieces(call: Call) -> None:
        call.head(200, content_encoding=header)
        for at in range(0, len(packed), 97):
            call.raw(packed[at : at + 97])

    server.answers["/pieces"] = in_pieces

    assert send(server.url("/x"), result="body").result == json.loads(data)
    assert send(server.url("/pieces"), result="body").result == json.loads(data)


# Retry-After.


@pytest.mark.parametrize("status", [429, 503])
def test_the_seconds_that_a_server_asks_for_are_handed_on(server: Server, status: int) -> None:
    server.answers["/x"] = lambda call: call.reply(status, retry_after="120")

    result = send(server.url("/x"))

    assert (result.failure, result.retry_after) == (FailureKind.RETRYABLE, 120.0)
    assert result.reason.endswith("asks to wait 120 s")


def test_a_moment_is_counted_from_the_servers_own_clock(server: Server) -> None:
    wrong = datetime.now(UTC) - timedelta(days=400)

    def answer(call: Call) -> None:
        later = format_datetime(wrong + timedelta(seconds=90), usegmt=True)
        call.raw(f"HTTP/1.1 503 Busy\r\nDate: {format_datetime(wrong, usegmt=True)}\r\n".encode())
        call.raw(f"Retry-After: {later}\r\nContent-Length: 0\r\n\r\n".encode())

    server.answers["/x"] = answer

    assert send(server.url("/x")).retry_after == 90.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("9" * 400, 1e9), ("Wed, 01 Jan 2020 00:00:00 GMT", 0.0), ("soon", None), ("-5", None), ("", None),
     ("1.5", None), ("٣", None), ("Wed, 99 Jan 99999 00:00:00 GMT", None)],
)  # fmt: skip
def test_what_a_server_may_ask_for(value: str, seconds: float | None) -> None:
    assert http.retry_after(value, "", datetime(2026, 11, 21, tzinfo=UTC)) == seconds


def test_a_permanent_failure_asks_for_nothing(server: Server) -> None:
    server.answers["/x"] = lambda call: call.reply(404, retry_after="120")

    assert send(server.url("/x")).retry_after is None


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


# Redirects.


def test_redirects_are_followed_as_often_as_the_task_says(server: Server) -> None:
    for n in range(3):
        server.answers[f"/{n}"] = lambda call, n=n: call.reply(302, location=f"{n + 1}")
    server.answers["/3"] = lambda call: call.reply(200, {"end": True})

    none = send(server.url("/0"))
    two = send(server.url("/0"), follow_redirects=2)
    three = send(server.url("/0"), follow_redirects=3, result="body")

    assert (none.failure, none.reason) == (
        FailureKind.PERMANENT,
        "status 302 Found to 1, which is not followed (follow_redirects: 0)",
    )
    assert "more than 2 redirects" in two.reason
    assert three.result == {"end": True}


@pytest.mark.parametrize(
    ("status", "method", "then", "body"),
    [(301, "POST", "GET", b""), (302, "POST", "GET", b""), (303, "PUT", "GET", b""), (307, "POST", "POST", b"x"),
     (308, "PUT", "PUT", b"x"), (301, "PUT", "PUT", b"x"), (303, "HEAD", "HEAD", b"")],
)  # fmt: skip
def test_what_becomes_of_a_request_that_is_redirected(
    server: Server, status: int, method: str, then: str, body: bytes
) -> None:
    server.answers["/a"] = lambda call: call.reply(status, location="/b")
    server.answers["/b"] = lambda call: call.reply(200)

    send(server.url("/a"), method=method, follow_redirects=1, **({"body": "x"} if method != "HEAD" else {}))

    assert (server.seen[1].method, server.seen[1].body) == (then, body)
    assert ("content-type" in server.seen[1].headers) is bool(body)


def test_another_server_is_told_no_secrets(server: Server) -> None:
    with serve("127.0.0.2") as other:
        other.answers["/b"] = lambda call: call.reply(200)
        server.answers["/a"] = lambda call: call.reply(307, location=other.url("/b", host="x:y@127.0.0.2"))
        log = Recorder()

        send(
            server.url("/a"),
            follow_redirects=1,
            headers={"Authorization": "Bearer t", "X-Api-Key": "k", "Cookie": "c", "Accept": "text/plain", "Host": "h"},
            log=log,
        )

        [seen] = other.seen
    assert seen.headers["accept"] == "text/plain"
    assert seen.headers["host"] == f"127.0.0.2:{other.port}"
    assert not {"authorization", "x-api-key", "cookie"} & set(seen.headers)
    assert b"not sent to another server: Authorization, X-Api-Key, Cookie, Host" in log.data


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a link-local address"),
        ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1 is a loopback (127.0.0.1) address"),
        ("http://[::ffff:7f00:1]/", "is a loopback (127.0.0.1) address"),
        ("http://[::1]/", "::1 is a loopback address"),
        ("http://[64:ff9b::127.0.0.1]/", "is a loopback (127.0.0.1) address"),
        ("http://[2002:7f00:1::]/", "is a loopback (127.0.0.1) address"),
        ("http://2130706433/", "2130706433 is 127.0.0.1, which is a loopback address"),
        ("http://0x7f.1/", "which is a loopback address"),
        ("http://0177.1/", "which is a loopback address"),
        ("http://0177.0.0.1/", "which is no address that can be called"),
        ("http://localhost/", "which is a loopback address"),
        ("http://0/", "which is an unspecified address"),
        ("http://10.0.0.1/", "10.0.0.1 is a private address"),
        ("//192.168.0.1/", "192.168.0.1 is a private address"),
        ("file:///etc/passwd", "which is no address that can be called"),
        ("gopher://127.1.2.3/", "which is no address that can be called"),
        ("http://127.1.2.3:0/", "which is no address that can be called"),
        ("http://a%00b/", "which is no address that can be called"),
        ("http://[", "which is no address that can be called"),
    ],
)
def test_a_redirect_leads_nowhere_that_the_tenant_may_not_reach(location: str, reason: str) -> None:
    with serve("127.1.2.3") as server:
        server.answers["/x"] = lambda call: call.reply(302, location=location)

        result = send(server.url("/x"), follow_redirects=5, allowed_networks=("127.1.2.3/32",))

    assert result.failure is FailureKind.PERMANENT
    assert reason in result.reason


def test_a_failure_behind_a_redirect_is_unknown_once_a_server_has_acted(server: Server) -> None:
    dead = f"http://127.0.0.1:{free_port()}/"
    server.answers["/acted"] = lambda call: call.reply(303, location=dead)
    server.answers["/elsewhere"] = lambda call: call.reply(307, location=dead)

    assert send(server.url("/acted"), method="POST", follow_redirects=1).failure is FailureKind.UNKNOWN
    assert send(server.url("/acted"), method="GET", follow_redirects=1).failure is FailureKind.RETRYABLE
    assert send(server.url("/elsewhere"), method="POST", follow_redirects=1).failure is FailureKind.RETRYABLE


# Addresses.


def test_a_private_address_needs_the_tenants_leave(server: Server) -> None:
    server.answers["/ok"] = lambda call: call.reply(200)

    refused = send(server.url("/ok"), allowed_networks=())
    others = send(server.url("/ok"), allowed_networks=("10.0.0.0/8", "not a network", "127.0.0.2/32"))
    allowed = send(server.url("/ok"), allowed_networks=("127.0.0.1",))

    for result in (refused, others):
        assert result.failure is FailureKind.PERMANENT
        assert result.reason == (
            "not allowed: 127.0.0.1 is a loopback address that is not in the tenant's allowed networks"
        )
    assert allowed.failure is None
    assert len(server.seen) == 1


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(server: Server) -> None:
    """A name that means a public address when it is checked and the worker itself when it is used gains nothing."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.6.6.6"
        return [(socket.AF_INET, (address, port))]

    server.answers["/ok"] = lambda call: call.reply(200)

    result = send(
        server.url("/ok", host="rebind.example"),
        executor=HttpExecutor(resolve=rebinding),
        allowed_networks=("127.0.0.1/32",),
    )

    assert result.failure is None
    assert asked == ["rebind.example"]
    assert server.seen[0].headers["host"] == f"rebind.example:{server.port}"


def test_of_several_addresses_only_those_that_are_fine_are_tried_each_in_its_time(server: Server) -> None:
    def several(host: str, port: int) -> list[Any]:
        return [
            (socket.AF_INET6, ("::1", port, 0, 0)),
            (socket.AF_INET, ("10.0.0.1", port)),
            (socket.AF_INET, ("127.0.0.7", port)),  # nobody listens
            (socket.AF_INET, ("127.0.0.1", port)),
        ]

    server.answers["/ok"] = lambda call: call.reply(200)

    assert send(server.url("/ok", host="many.example"), executor=HttpExecutor(resolve=several)).failure is None


# TLS.


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "server.example", "127.0.0.1")


@pytest.fixture
def secure(certificate: Certificate) -> Iterator[Server]:
    with serve(tls=certificate.server_context()) as running:
        running.answers["/ok"] = lambda call: call.reply(200, {"ok": True})
        yield running


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Server) -> None:
    result = send(secure.url("/ok"), headers={"Authorization": "Bearer t"})

    assert result.failure is FailureKind.PERMANENT
    assert "the certificate is not accepted: self-signed certificate" in result.reason
    assert secure.seen == []


def test_a_certificate_is_not_looked_at_if_the_task_says_so(secure: Server) -> None:
    log = Recorder()

    result = send(secure.url("/ok"), tls_verify=False, result="body", log=log)

    assert result.result == {"ok": True}
    assert b"with TLSv1.3, its certificate not checked" in log.data


def test_large_bodies_pass_both_ways_under_tls(secure: Server) -> None:
    secure.answers["/mirror"] = lambda call: call.reply(200, call.seen.body)
    text = "x" * 20_000_000

    result = send(
        secure.url("/mirror"), method="POST", json=text, tls_verify=False, max_body="32Mi", result="body", timeout=60
    )

    assert result.result == text


def test_the_hosts_own_roots_are_trusted_and_the_name_is_checked(
    secure: Server, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, ("127.0.0.1", port))]

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    http._tls.cache_clear()
    executor = HttpExecutor(resolve=resolve)
    try:
        right = send(secure.url("/ok", host="server.example"), executor=executor)
        by_address = send(secure.url("/ok"), executor=executor)
        wrong = send(secure.url("/ok", host="another.example"), executor=executor)
    finally:
        http._tls.cache_clear()

    assert (right.failure, by_address.failure) == (None, None)
    assert wrong.failure is FailureKind.PERMANENT
    assert "Hostname mismatch" in wrong.reason


def test_a_server_without_tls_is_a_permanent_failure(server: Server) -> None:
    result = send(f"https://127.0.0.1:{server.port}/")

    assert result.failure is FailureKind.PERMANENT
    assert result.reason.startswith(f"TLS with 127.0.0.1 port {server.port}: ")


def test_a_handshake_that_hangs_or_breaks_is_retryable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"

        hung = send(url, timeouts={"connect": 0.3})
        late = send(url, timeout=0.3)
        threading.Thread(target=lambda: [listener.accept()[0].close() for _ in range(3)]).start()
        closed = send(url)

    assert (hung.failure, hung.reason) == (FailureKind.RETRYABLE, "the TLS handshake took too long")
    assert late.failure is FailureKind.TIMEOUT
    assert closed.failure is FailureKind.RETRYABLE


def test_the_deadline_and_the_stop_hold_under_tls(secure: Server) -> None:
    def answer(call: Call) -> None:
        call.head(200)
        call.trickle(b"a")

    secure.answers["/x"] = answer
    stop = StopSignal()
    threading.Timer(0.4, stop.request, ["cancelled"]).start()
    began = time.monotonic()

    stopped = send(secure.url("/x"), tls_verify=False, stop=stop)
    late = send(secure.url("/x"), tls_verify=False, timeout=0.5)

    assert stopped.failure is FailureKind.STOPPED
    assert late.failure is FailureKind.TIMEOUT
    assert time.monotonic() - began < 4


# The log.


def test_the_log_tells_the_exchange_without_its_secrets(server: Server) -> None:
    server.answers["/api"] = lambda call: call.reply(
        422, {"error": "no such day"}, set_cookie="id=abc", x_request_id="r-1", authorization_info="abc"
    )
    log = Recorder()

    send(
        server.url("/api"),
        method="POST",
        query={"day": "1"},
        json={},
        headers={"Authorization": "Bearer abc", "X-Trace": "t-1", "Idempotency-Key": "k-1"},
        log=log,
    )

    text = log.data.decode()
    assert f"> POST {server.url('/api?day=1')}\n" in text
    for line in (
        "> Authorization: ***",
        "> X-Trace: t-1",
        "> Idempotency-Key: k-1",
        "  2 bytes of body",
        f"  connected to 127.0.0.1:{server.port}",
        "< HTTP/1.1 422 Unprocessable Entity",
        "< x-request-id: r-1",
        "< set-cookie: ***",
        '  the body begins:\n{"error": "no such day"}',
    ):
        assert f"{line}\n" in text
    assert "abc" not in text
    assert " s in all\n" in text


def test_nothing_that_a_server_says_can_draw_on_a_terminal(server: Server) -> None:
    server.answers["/x"] = lambda call: call.reply(500, b"\x1b[2J\x07gone\r\nline", x_evil="\x1b[31mred")
    log = Recorder()

    send(server.url("/x"), log=log)

    assert b"\x1b" not in log.data
    assert b"\x07" not in log.data
    assert b"line\n" in log.data
