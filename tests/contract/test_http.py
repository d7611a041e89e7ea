"""The HTTP executor under its contract: what a request is, what an answer means, what the log tells."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import LocalStore, log_key
from tests.contract.executors import LongRunningContract, Recorder, context_for
from tests.contract.http_calls import FIVE_GB, send
from tests.support.http_server import Call, Server
from tests.support.services import free_port
from workers.executors import http
from workers.executors.base import FailureKind
from workers.executors.http import HttpExecutor


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
