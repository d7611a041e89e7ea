"""A TCP proxy in a thread: a server goes away, and comes back, for those alone who go through it.

with Proxy("127.0.0.1", 5432) as proxy:
    connect(port=proxy.port)
    proxy.cut()                      # connections break, new ones are refused
    proxy.restore()
    proxy.cut_on(b"COMMIT")          # the next time these bytes pass, they arrive, and the answer does not
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self

from tests.support.services import free_port


class Proxy:
    """Forwards `port` to a server of this machine."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.port = free_port()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self._trap: bytes | None = None
        #: How often a trap has sprung.
        self.sprung = 0
        self.restore()

    def restore(self) -> None:
        """Take connections again. Safe to call twice."""
        with self._lock:
            if self._listener is not None:
                return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(64)
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones. Safe to call twice."""
        with self._lock:
            listener, self._listener = self._listener, None
            pairs = list(self._pairs)
        if listener is not None:
            # Without it the thread that accepts would keep the port open.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for pair in pairs:
            _close(pair)

    def cut_on(self, wanted: bytes) -> None:
        """Break the connection on which these bytes are sent next: the server gets them, the client no answer."""
        self._trap = wanted

    def close(self) -> None:
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                pair = (client, socket.create_connection(self._server, timeout=10))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._forward, args=(pair,), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        try:
            while True:
                readable, _, _ = select.select(pair, (), ())
                for each in readable:
                    data = each.recv(1 << 16)
                    if not data:
                        return
                    if each is client and self._trap is not None and self._trap in data:
                        self._trap = None
                        server.sendall(data)
                        # The server has read it before the connection ends, and does what it says.
                        server.recv(1)
                        self.sprung += 1
                        return
                    (server if each is client else client).sendall(data)
        except (OSError, ValueError):
            return
        finally:
            _close(pair)
            with self._lock:
                self._pairs.discard(pair)


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
