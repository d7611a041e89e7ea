"""A TCP or TLS connection to a checked address, every wait of which ends at the attempt's deadline or stop.

A client library's timeouts are per read: a peer that sends a byte a second outlives them all, and a thread that
waits in one cannot be stopped. Here each wait is a poll over the socket and a pipe that a stop writes to.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any

from workers.executors.base import StopSignal
from workers.runtime.addresses import Network, refusal

#: Of a name with more addresses than these, the rest is not tried.
MOST_ADDRESSES = 16

SocketAddress = tuple[socket.AddressFamily, tuple[Any, ...]]
Resolve = Callable[[str, int], Sequence[SocketAddress]]


class Stopped(Exception):
    """Control flow: the attempt is asked to stop."""


class DeadlinePassed(Exception):
    """Control flow: the attempt's time is over."""


class NotConnected(Exception):
    """There is no connection, and nothing was sent."""


class AddressRefused(Exception):
    """The host has no address that the tenant may reach."""


class TlsFailed(Exception):
    """The two sides cannot agree on an encrypted connection, or the peer is not who it should be."""


class Silent(Exception):
    """The peer neither sent nor took anything for too long."""


class Broken(Exception):
    """The connection ended in the middle."""


class Watch:
    """An attempt's deadline and stop, as something to wait with. Used by one thread; the stop comes from any."""

    def __init__(self, timeout: float, stop: StopSignal) -> None:
        self._deadline = time.monotonic() + timeout
        self._stop = stop
        self._lock = threading.Lock()
        self._reader, self._writer = os.pipe()
        self._open = True
        stop.on_request(self._wake)

    def check(self) -> float:
        """Return the seconds left; raises Stopped or DeadlinePassed."""
        if self._stop.requested:
            raise Stopped
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return left

    def ready(self, sock: socket.socket, events: int, *, within: float) -> bool:
        """Wait until the socket is ready for `events`; False after `within` seconds. Raises Stopped, DeadlinePassed."""
        until = time.monotonic() + within
        poll = select.poll()
        poll.register(sock, events)
        poll.register(self._reader, select.POLLIN)
        while True:
            left = min(self.check(), until - time.monotonic())
            if left <= 0:
                return False
            # Rounded up, so that the last millisecond is waited for and not spun through.
            if any(fd != self._reader for fd, _ in poll.poll(ceil(left * 1000))):
                return True

    def happens(self, event: threading.Event, *, within: float) -> bool:
        """Wait until the event is set; False after `within` seconds. Raises Stopped, DeadlinePassed."""
        self._stop.on_request(event.set)
        happened = event.wait(min(self.check(), within))
        self.check()
        return happened

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._reader)
            os.close(self._writer)

    def _wake(self) -> None:
        # A stop may come after the end, when the numbers of these files belong to others.
        with self._lock:
            if self._open:
                os.write(self._writer, b"s")


class Wire:
    """An open connection, with the methods that httpcore asks of a network stream; its own timeouts are not used."""

    def __init__(self, sock: socket.socket, peer: str, watch: Watch, *, patience: float) -> None:
        self._socket = sock
        self._watch = watch
        #: The address and port that it goes to. Not asked of the socket, which forgets it when the peer resets.
        self.peer = peer
        #: Seconds of silence that are too long.
        self._patience = patience
        self._until: float | None = None
        self._write_problem = ""
        #: Something has left this host, so the peer may act on it.
        self.sent = False

    @property
    def protocol(self) -> str:
        """The version of TLS, or nothing."""
        return (self._socket.version() or "") if isinstance(self._socket, ssl.SSLSocket) else ""

    def hurry(self, seconds: float) -> None:
        """Count the peer as silent after so many seconds from now, whatever it sends."""
        self._until = time.monotonic() + seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # Also when there is always something to read: a flood must not outrun its deadline.
        self._watch.check()
        while True:
            if self._until is not None and time.monotonic() >= self._until:
                raise Silent
            try:
                return self._socket.recv(max_bytes)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)
            except ssl.SSLError as error:
                raise Broken(_tls_words(error)) from None
            except OSError as error:
                raise Broken(self._write_problem or _words(error)) from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._watch.check()
        rest = memoryview(buffer)
        while rest and not self._write_problem:
            try:
                count = self._socket.send(rest)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
            except OSError as error:
                # A server may refuse a request before it has read it all: its answer, if there is one, is what counts.
                self._write_problem = _words(error)
            else:
                self.sent = True
                rest = rest[count:]

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Wire:
        """Encrypt the connection; raises TlsFailed, and NotConnected if it ends or nothing comes within `timeout`."""
        until = time.monotonic() + (self._patience if timeout is None else timeout)
        try:
            wrapped = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
        except ValueError as error:  # a host that no certificate can name
            raise TlsFailed(str(error)) from None
        except OSError as error:
            raise NotConnected(f"TLS handshake: {_words(error)}") from None
        self._socket = wrapped
        while True:
            left = until - time.monotonic()
            try:
                wrapped.do_handshake()
                return self
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                raise NotConnected("the connection was closed during the TLS handshake") from None
            except ssl.SSLError as error:
                raise TlsFailed(_tls_words(error)) from None
            except OSError as error:
                raise NotConnected(f"TLS handshake: {_words(error)}") from None
            if not self._watch.ready(wrapped, events, within=left):
                raise NotConnected("the TLS handshake took too long")

    def get_extra_info(self, info: str) -> Any:
        return None

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()

    def _wait(self, events: int) -> None:
        within = self._patience
        if self._until is not None:
            within = min(within, self._until - time.monotonic())
        if not self._watch.ready(self._socket, events, within=within):
            raise Silent


def resolve(host: str, port: int) -> Sequence[SocketAddress]:
    """Ask the system's resolver for a name's addresses; raises OSError."""
    # As bytes: as a text it would go through Python's own, older IDNA, which raises errors of its own.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


@contextmanager
def dial(
    host: str,
    port: int,
    *,
    allowed: Sequence[Network],
    watch: Watch,
    within: float,
    patience: float,
    tls: ssl.SSLContext | None = None,
    resolve: Resolve = resolve,
) -> Iterator[Wire]:
    """Connect to `host`, closing at the end. `within` are the seconds for name, connection and handshake together.

    The name is resolved once, and the connection goes to an address that was checked: a name that means another
    address a moment later (DNS rebinding) gains nothing. Raises NotConnected, AddressRefused, TlsFailed, Stopped,
    DeadlinePassed.
    """
    until = time.monotonic() + within
    targets = _reachable(host, _addresses(host, port, watch, within, resolve), allowed)
    sock, address = _connect(host, port, targets, watch, until)
    peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    wire = Wire(sock, peer, watch, patience=patience)
    try:
        if tls is not None:
            wire.start_tls(tls, host.rstrip("."), max(0.0, until - time.monotonic()))
        yield wire
    finally:
        wire.close()


def _addresses(host: str, port: int, watch: Watch, within: float, resolve: Resolve) -> Sequence[SocketAddress]:
    found: list[Sequence[SocketAddress]] = []
    problems: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.append(resolve(host, port))
        except Exception as error:
            problems.append(_words(error))
        finally:
            done.set()

    # The system's resolver cannot be interrupted. The thread that waits for it ends within its own limits, some
    # seconds, when nobody waits any more.
    try:
        threading.Thread(target=ask, name="resolver", daemon=True).start()
    except RuntimeError as error:
        raise NotConnected(f"{host} could not be looked up: {error}") from None
    if not watch.happens(done, within=within):
        raise NotConnected(f"{host} could not be looked up within {within:g} s")
    if problems:
        raise NotConnected(f"{host} could not be looked up: {problems[0]}")
    return found[0]


def _reachable(host: str, addresses: Sequence[SocketAddress], allowed: Sequence[Network]) -> list[SocketAddress]:
    fine: list[SocketAddress] = []
    refused: dict[str, str] = {}
    for family, address in addresses:
        what = refusal(str(address[0]), allowed)
        if what is not None:
            refused[str(address[0])] = what
        elif (family, address) not in fine:
            fine.append((family, address))
    if fine:
        return fine[:MOST_ADDRESSES]
    if not refused:
        raise NotConnected(f"{host} has no address")
    address_text, what = next(iter(refused.items()))
    shown = host if host == address_text else f"{host} is {address_text},"
    verb = "is" if host == address_text else "which is"
    article = "an" if what[0] in "aeiou" else "a"
    raise AddressRefused(f"{shown} {verb} {article} {what} address that is not in the tenant's allowed networks")


def _connect(
    host: str, port: int, targets: Sequence[SocketAddress], watch: Watch, until: float
) -> tuple[socket.socket, str]:
    problem = ""
    for number, (family, address) in enumerate(targets):
        # Each address gets its share of what is left, so that a dead first one leaves time for the others.
        share = (until - time.monotonic()) / (len(targets) - number)
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(BlockingIOError):
                sock.connect(address)
            if not watch.ready(sock, select.POLLOUT, within=share):
                raise TimeoutError(f"no answer within {max(0, round(share, 1)):g} s")
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                raise OSError(failed, os.strerror(failed))
            return sock, str(address[0])
        except OSError as error:
            problem = _words(error)
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    raise NotConnected(f"cannot connect to {host} port {port}: {problem}")


def _words(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error or type(error).__name__)


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
