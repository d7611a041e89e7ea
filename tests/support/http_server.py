"""A real HTTP(S) server on a loopback port whose answers a test writes itself, well-formed or not.

with serve() as server:
    server.answers["/slow"] = lambda call: (time.sleep(2), call.reply(200))
    server.url("/slow")
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as the server read it; names of headers in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    peer: str


class Call(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: _Listener
    seen: Seen

    def handle(self) -> None:
        # Clients that leave in the middle are what half of the tests are about.
        with contextlib.suppress(OSError, ssl.SSLError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        self.seen = Seen(
            self.command,
            parts.path,
            parse_qsl(parts.query, keep_blank_values=True),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length) if length else b"",
            self.client_address[0],
        )
        self.server.owner.seen.append(self.seen)
        answer = self.server.owner.answers.get(parts.path)
        if answer is None:
            self.reply(404, {"path": parts.path})
        else:
            answer(self)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def reply(self, status: int, data: Any = None, **headers: str) -> None:
        """Answer with JSON data, bytes or nothing; `retry_after="5"` is the header `Retry-After`."""
        body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        self.head(status, **{"content_type": "application/json", "content_length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.raw(body)

    def head(self, status: int, **headers: str) -> None:
        """Send the status line and headers alone."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.wfile.write(data)

    def reset(self) -> None:
        """End the connection as a crashed host would, with RST."""
        # Linger 0: closing sends a reset instead of what is left.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def abandoned(self) -> bool:
        """Say whether the client has closed the connection."""
        plain = self.connection
        try:
            plain.setblocking(False)
            return socket.socket.recv(plain, 1, 0 if isinstance(plain, ssl.SSLSocket) else socket.MSG_PEEK) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                plain.setblocking(True)

    def trickle(self, data: bytes = b".", *, every: float = 0.05, witness: Path | None = None) -> None:
        """Send `data` again and again, noting it in `witness`, until the client has gone."""
        while not self.abandoned() and not self.server.owner.closing.is_set():
            if witness is not None:
                with witness.open("ab") as file:
                    file.write(b".")
            try:
                self.raw(data)
            except OSError:
                break
            time.sleep(every)

    def hang(self) -> None:
        """Say nothing until the client has gone."""
        while not self.abandoned() and not self.server.owner.closing.is_set():
            time.sleep(0.02)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: Server
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a client that never shakes hands must hold up nobody else.
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                return
            with request:
                super().finish_request(request, client_address)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@dataclass
class Server:
    """A running server: what it was asked, and what it answers by path."""

    host: str
    port: int
    scheme: str
    answers: dict[str, Callable[[Call], Any]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"


@contextlib.contextmanager
def serve(host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Start a server on a free port of `host`, and end it with the block."""
    listener = _Listener((host, 0), Call)
    listener.tls = tls
    server = Server(host, listener.server_address[1], "https" if tls else "http")
    listener.owner = server
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


@dataclass(frozen=True)
class Certificate:
    """A certificate that signs itself, for the names and addresses of a test's server."""

    path: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context


def self_signed(folder: Path, *names: str) -> Certificate:
    """Write a certificate and its key into one file, good for an hour."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    alternatives = [_general_name(name) for name in names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(path)


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
