"""SQLite, by the driver of Python's standard library.

An authorizer refuses, at the moment a statement is compiled, what would leave the one file of the connection or end
the transaction; read-only is a mode in which the file is opened.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.engine import URL

from workers.executors.databases.base import BadBind, Fault, Rows, Trouble
from workers.executors.databases.statements import Statement
from workers.executors.databases.values import as_json_text, is_storable

PIECE: Final = 100
#: How long SQLite waits for a lock before it is asked whether the attempt still wants it.
BUSY_SECONDS: Final = 0.2
_WHOLE: Final = range(-(2**63), 2**63)
_PRIMARY: Final = 0xFF

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_TRANSIENT = (
    *_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_SCHEMA,
)  # fmt: skip
#: What would take back what we set, or let SQLite write elsewhere.
_REFUSED_PRAGMAS = ("query_only", "writable_schema", "temp_store_directory", "data_store_directory", "busy_timeout")


class SQLite:
    """One connection to a file."""

    def __init__(self, url: URL, say: Callable[[str], None]) -> None:
        self._path = url.database or ""
        self._say = say
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._canceled = threading.Event()
        self._ours = True
        self._vacuums = False
        self._refused = ""

    def connect(self, *, name: str, seconds: float, read_only: bool) -> None:
        if not Path(self._path).exists():
            # Making an empty one would hide that it lies on another host.
            raise Trouble(Fault.WRONG, f"there is no file {self._path} on this worker")
        mode = "ro" if read_only else "rw"
        try:
            connection = sqlite3.connect(
                f"file:{quote(self._path)}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            connection.execute(f"pragma query_only = {int(read_only)}")
            connection.set_authorizer(self._authorize)
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        with self._lock:
            self._connection = connection

    def begin(self, *, read_only: bool, seconds: float) -> None:
        # A writer takes its lock now: one that comes by it later may find that what it read is no longer so.
        self._patiently(lambda: self._own("begin" if read_only else "begin immediate"))

    def limit(self, seconds: float, *, in_transaction: bool) -> None:
        """Nothing to set: this process is the server, and `cancel` reaches it."""

    def run(self, statement: Statement, values: Mapping[str, Any], rows: Rows) -> None:
        given = {bind.name: _given(bind.name, values[bind.name]) for bind in statement.binds}
        self._ours, self._refused = False, ""
        self._vacuums = statement.text[:6].lower() == "vacuum"
        try:
            cursor = self._patiently(lambda: self._open.execute(statement.text, given))
            if cursor.description is not None:
                rows.columns = tuple(column[0] for column in cursor.description)
                rows.returned = 0
                while piece := cursor.fetchmany(PIECE):
                    rows.returned += len(piece)
                    rows.take(piece[: rows.room])
            if cursor.rowcount >= 0:
                rows.affected = cursor.rowcount
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._trouble(error) from None
        finally:
            self._ours = True

    @property
    def in_transaction(self) -> bool:
        return self._open.in_transaction

    def commit(self) -> None:
        try:
            self._patiently(lambda: self._own("commit"))
        except Trouble as trouble:
            # The file decides when it is opened next, whether the commit is in it.
            raise Trouble(Fault.BROKEN, str(trouble)) if trouble.fault is Fault.TRANSIENT else trouble from None

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def cancel(self) -> None:
        self._canceled.set()
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

    def abandon(self) -> None:
        self.cancel()

    @property
    def _open(self) -> sqlite3.Connection:
        connection = self._connection
        assert connection is not None
        return connection

    def _own(self, text: str) -> None:
        try:
            self._open.execute(text).close()
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _patiently(self, step: Callable[[], Any]) -> Any:
        """Repeat a step while others hold the lock, until it is no longer wanted."""
        waiting = False
        while True:
            try:
                return step()
            except (Trouble, sqlite3.Error) as problem:
                error = problem.__cause__ if isinstance(problem, Trouble) else problem
                if _code(error) not in _BUSY:
                    raise
                if self._canceled.is_set():
                    raise Trouble(Fault.CANCELED, str(problem)) from None
                if not waiting:
                    self._say("waiting: another connection holds the lock of the database")
                waiting = True
            time.sleep(0.01)

    def _authorize(self, action: int, first: str | None, second: str | None, *rest: str | None) -> int:
        if self._ours:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_ATTACH and first != "":  # VACUUM attaches a file without a name
            self._refused = "a connection is one file: ATTACH and VACUUM INTO are refused"
        elif action == sqlite3.SQLITE_DETACH:
            self._refused = "a connection is one file: DETACH is refused"
        elif action == sqlite3.SQLITE_TRANSACTION and not self._vacuums:  # which has a transaction of its own
            self._refused = f"{first or 'this'} is refused: the task's `transaction` decides"
        elif action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _REFUSED_PRAGMAS:
            self._refused = f"PRAGMA {first} is refused"
        elif action == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension":
            self._refused = "load_extension is refused"
        else:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _trouble(self, error: Exception) -> Trouble:
        code = _code(error)
        words = " ".join(str(error).split())
        if self._refused:
            return Trouble(Fault.WRONG, f"{self._refused} ({words})")
        if code == sqlite3.SQLITE_INTERRUPT:
            return Trouble(Fault.CANCELED, words)
        name = getattr(error, "sqlite_errorname", None)
        return Trouble(Fault.TRANSIENT if code in _TRANSIENT else Fault.WRONG, f"{words} ({name})" if name else words)


def _code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


def _given(name: str, value: Any) -> Any:
    """A JSON value as SQLite takes it: lists and objects are texts of JSON, for its own JSON functions."""
    if isinstance(value, (list, Mapping)):
        value = as_json_text(value)
    if isinstance(value, str) and not is_storable(value):
        raise BadBind(name, "a text that can be encoded as UTF-8")
    if isinstance(value, int) and value not in _WHOLE:
        raise BadBind(name, "a whole number of 64 bits")
    return value
