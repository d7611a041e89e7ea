"""PostgreSQL through psycopg 3.

Statements go by the extended protocol, which takes one statement and no more, and rows come in small pieces. What the
transaction may do is decided by the server; a text cannot undo it.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import generators
from psycopg.adapt import Loader, PyFormat, Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.types.datetime import DateLoader, TimeLoader, TimestampLoader, TimestamptzLoader, TimetzLoader
from psycopg.types.string import TextLoader
from sqlalchemy.engine import URL

from workers.executors.databases.base import BadBind, Fault, Rows, Trouble
from workers.executors.databases.statements import Statement
from workers.executors.databases.values import as_json_text, is_storable

#: Rows of one piece of a result.
PIECE: Final = 100
CONNECT_SECONDS: Final = 10.0
LONGEST_CONNECT_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 2.0
#: Cut longer messages of the server: a log is for people.
LONGEST_NOTICE: Final = 64 * 1024
NAME_CHARACTERS: Final = 63
#: From this version on a server looks, while it works, whether its client is still there.
CHECKS_CLIENT: Final = 140000
CHECK_CLIENT_MILLISECONDS: Final = 1000
#: Notice a dead server or network in half a minute, also while waiting for an answer.
KEEPALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}

_TUPLES = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK)
_COPIES = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)
#: Classes and codes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_BROKEN = ("080", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_TRANSIENT = ("40", "53", "58", "55P03", "55006", "P0001", "XX")
_CANCELED = ("57014",)
#: What a server says when it will say the same again. A failed connection carries no SQLSTATE.
_REFUSED_FOR_GOOD = re.compile(
    r"FATAL: +(\S+ authentication failed|no pg_hba.conf entry|(database|role) \S+ does not exist)"
)


def _iso(kind: type[Loader]) -> type[Loader]:
    class IsoLoader(kind):  # type: ignore[misc,valid-type]
        """A moment as ISO 8601; one that Python cannot hold, such as `infinity`, as the server writes it."""

        format = Format.TEXT

        def load(self, data: Any) -> Any:
            try:
                return super().load(data).isoformat()
            except psycopg.DataError:
                return bytes(data).decode()

    return IsoLoader


_LOADERS: Final[dict[str, type[Loader]]] = {
    "date": _iso(DateLoader),
    "time": _iso(TimeLoader),
    "timetz": _iso(TimetzLoader),
    "timestamp": _iso(TimestampLoader),
    "timestamptz": _iso(TimestamptzLoader),
    "interval": TextLoader,
}


class PostgreSQL:
    """One connection to a PostgreSQL server."""

    def __init__(self, url: URL, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        #: A text has set a limit of its own, which may be the shorter one; ours is kept by `cancel` in any case.
        self._limited_by_text = False

    def connect(self, *, name: str, seconds: float, read_only: bool) -> None:
        _, settings = self._url.get_dialect()().create_connect_args(self._url)
        # What SQLAlchemy would adapt for itself; values are ours to adapt.
        settings.pop("context", None)
        asked = _seconds(settings.pop("connect_timeout", None))
        settings = {
            **KEEPALIVE,
            **settings,
            "application_name": name[:NAME_CHARACTERS],
            "client_encoding": "utf8",
            # Whole seconds, and 2 at least, is what libpq knows.
            "connect_timeout": max(2, int(min(seconds, asked))),
        }
        try:
            connection = psycopg.connect(**settings, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            words = _words(error)
            for_good = not isinstance(error, psycopg.OperationalError) or _REFUSED_FOR_GOOD.search(words)
            raise Trouble(Fault.WRONG if for_good else Fault.TRANSIENT, words) from None
        connection.add_notice_handler(lambda notice: self._say(_notice(notice)))
        for type_name, loader in _LOADERS.items():
            connection.adapters.register_loader(type_name, loader)
        with self._lock:
            self._connection = connection

    def begin(self, *, read_only: bool, seconds: float) -> None:
        settings = _settings(self._open.info.server_version, seconds)
        lines = ["begin read only" if read_only else "begin", *(f"set local {setting}" for setting in settings)]
        if read_only:
            # After the first query of its own a transaction can no longer be made writable, by no text.
            lines.append("select 1")
        self._simple("; ".join(lines))

    def limit(self, seconds: float, *, in_transaction: bool) -> None:
        if self._limited_by_text:
            return
        if in_transaction:
            self._simple(f"set local statement_timeout = {_milliseconds(seconds)}")
        else:
            settings = _settings(self._open.info.server_version, seconds)
            self._simple("; ".join(f"set {setting}" for setting in settings))

    def run(self, statement: Statement, values: Mapping[str, Any], rows: Rows) -> None:
        connection = self._open
        self._limited_by_text |= "statement_timeout" in statement.text.lower()
        names = list(dict.fromkeys(bind.name for bind in statement.binds))
        text = statement.with_binds({name: f"${number}" for number, name in enumerate(names, 1)})
        transformer = Transformer(connection)
        given = _dumped(transformer, {name: _given(name, values[name]) for name in names})
        pgconn = connection.pgconn
        try:
            pgconn.send_query_params(
                text.encode(), given, param_types=transformer.types, param_formats=transformer.formats,
                result_format=Format.TEXT,
            )  # fmt: skip
            if psycopg.capabilities.has_stream_chunked():
                pgconn.set_chunked_rows_mode(PIECE)
            else:
                pgconn.set_single_row_mode()
            connection.wait(generators.send(pgconn))
            connection.wait(_receive(pgconn, transformer, rows))
        except psycopg.Error as error:
            raise self._trouble(error) from None
        except ValueError as error:
            # A database without an encoding of its own may hold anything.
            raise Trouble(Fault.WRONG, f"a value of the result cannot be read: {error}") from None

    @property
    def in_transaction(self) -> bool:
        return self._open.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def commit(self) -> None:
        if self._simple("commit") == "ROLLBACK":
            raise Trouble(Fault.WRONG, "the transaction had failed and was rolled back")

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            # The server rolls back what is open; and a connection in the middle of a COPY takes no ROLLBACK.
            with suppress(psycopg.Error):
                connection.close()

    def cancel(self) -> None:
        with self._lock:
            connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.cancel_safe(timeout=CANCEL_SECONDS)

    def abandon(self) -> None:
        with self._lock, suppress(psycopg.Error, OSError):
            if self._connection is not None:
                # Whoever waits on the socket reads its end. Closing it here would give its number to somebody else.
                with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as handle:
                    handle.shutdown(socket.SHUT_RDWR)

    @property
    def _open(self) -> psycopg.Connection[Any]:
        connection = self._connection
        assert connection is not None
        return connection

    def _simple(self, text: str) -> str:
        """Run a text of ours, which holds nothing of anybody else's; returns what was done last."""
        try:
            cursor = self._open.execute(text.encode())
            while cursor.nextset():
                pass
            return cursor.statusmessage or ""
        except psycopg.Error as error:
            raise self._trouble(error) from None

    def _trouble(self, error: psycopg.Error) -> Trouble:
        return Trouble(_fault(error.sqlstate, broken=self._open.closed), _words(error))


def _receive(pgconn: Any, transformer: Any, rows: Rows) -> Generator[Any, Any, None]:
    """Take a result piece by piece; keep what is asked for and count the rest."""
    failed: psycopg.Error | None = None
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            break
        if result.status in _COPIES:
            raise psycopg.NotSupportedError("COPY from or to the client is not possible here; use a file of the server")
        if result.status == ExecStatus.FATAL_ERROR:
            failed = failed or psycopg.errors.error_from_result(result)
        elif result.status in _TUPLES or result.status == ExecStatus.TUPLES_OK:
            if rows.returned is None:
                rows.returned = 0
                rows.columns = tuple((result.fname(n) or b"").decode() for n in range(result.nfields))
            rows.returned += result.ntuples
            taken = min(rows.room, result.ntuples)
            if taken:
                transformer.set_pgresult(result, set_loaders=True)
                rows.take(transformer.load_rows(0, taken, tuple))
            if result.status == ExecStatus.TUPLES_OK and not (result.command_status or b"").startswith(b"SELECT"):
                rows.affected = result.command_tuples
        elif result.status == ExecStatus.COMMAND_OK:
            rows.affected = result.command_tuples
    if failed is not None:
        raise failed


def _dumped(transformer: Any, values: Mapping[str, Any]) -> Any:
    try:
        return transformer.dump_sequence(list(values.values()), [PyFormat.TEXT] * len(values))
    except psycopg.Error:
        for name, value in values.items():
            try:
                Transformer().dump_sequence([value], [PyFormat.TEXT])
            except psycopg.Error as error:
                raise BadBind(name, f"one that PostgreSQL can hold: {_words(error)}") from None
        raise


def _given(name: str, value: Any) -> Any:
    """A JSON value as the server takes it: a list of plain values is an array, an object is a text of JSON."""
    if isinstance(value, str) and ("\0" in value or not is_storable(value)):
        raise BadBind(name, "a text that PostgreSQL can hold: without NUL, and UTF-8")
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, (list, Mapping)) for v in value)):
        return _given(name, as_json_text(value))
    if isinstance(value, list):
        return [_given(name, item) for item in value]
    return value


def _settings(server_version: int, seconds: float) -> list[str]:
    limit = _milliseconds(seconds)
    settings = [f"statement_timeout = {limit}", f"idle_in_transaction_session_timeout = {limit + 10_000}"]
    if server_version >= CHECKS_CLIENT:
        # So that a query does not outlive a worker that was killed.
        settings.append(f"client_connection_check_interval = {CHECK_CLIENT_MILLISECONDS}")
    return settings


def _milliseconds(seconds: float) -> int:
    # The server's type ends there: 24 days.
    return min(2**31 - 20_000, max(1, int(seconds * 1000)))


def _seconds(text: Any) -> float:
    try:
        return min(LONGEST_CONNECT_SECONDS, max(1.0, float(text)))
    except (TypeError, ValueError):
        return CONNECT_SECONDS


def _fault(sqlstate: str | None, *, broken: bool) -> Fault:
    code = sqlstate or ""
    if code in _CANCELED:
        return Fault.CANCELED
    if broken or code.startswith(_BROKEN):
        return Fault.BROKEN
    return Fault.TRANSIENT if code.startswith(_TRANSIENT) else Fault.WRONG


def _words(error: psycopg.Error) -> str:
    """The server's words on one line, with its code."""
    diagnosis = error.diag
    if diagnosis.message_primary is None:
        return " ".join(str(error).split()) or type(error).__name__
    words = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.message_hint]
    text = "; ".join(" ".join(part.split()) for part in words if part)
    return f"{text} ({error.sqlstate})" if error.sqlstate else text


def _notice(notice: Any) -> str:
    text = f"{notice.severity or 'NOTICE'}: {notice.message_primary or ''}"
    return text if len(text) <= LONGEST_NOTICE else f"{text[:LONGEST_NOTICE]}…"
