"""Where the HTTP executor goes: redirects, private addresses, names that change, certificates."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.executors import Recorder
from tests.contract.http_calls import send
from tests.support.http_server import Call, Certificate, Server, self_signed, serve
from tests.support.services import free_port
from workers.executors import http
from workers.executors.base import FailureKind, StopSignal
from workers.executors.http import HttpExecutor

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
