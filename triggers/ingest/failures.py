"""Whose fault a refusal of the database is: the data's, or anything else's. Pure.

Data is what a row holds: SQLSTATE class 22, and the named constraints of the event's own row. Everything else, and
everything unknown, is infrastructure: a batch is held for it, and no message is condemned.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import psycopg
from django.db import Error as DjangoError
from django.db import InterfaceError, OperationalError

#: What could only be broken by values of one event. A missing partition breaks a constraint without a name (23514).
OWN_CONSTRAINTS: Final = frozenset({"triggers_event_depth_check"})
#: Victims of others: the same again may well go through at once.
_VICTIMS: Final = ("40001", "40P01", "55P03")
#: Of Python's own: a number or a text that no driver can send.
_UNSENDABLE: Final = (OverflowError, UnicodeError)

#: What a write may raise that this module judges.
JUDGED: Final = (DjangoError, psycopg.Error, *_UNSENDABLE)


def is_data(error: BaseException) -> bool:
    """Whether a row is to blame for what it holds."""
    if isinstance(error, _UNSENDABLE):
        return True
    cause = _cause(error)
    if isinstance(cause, psycopg.Error):
        state = cause.sqlstate or ""
        return state.startswith("22") or (state.startswith("23") and cause.diag.constraint_name in OWN_CONSTRAINTS)
    if isinstance(cause, psycopg.DataError | sqlite3.DataError):
        return True
    # SQLite names no code: a text that is no JSON, a text or blob that is too large.
    return isinstance(cause, sqlite3.IntegrityError) and "CHECK constraint failed" in str(cause)


def is_victim(error: BaseException) -> bool:
    """Whether the database took the transaction back for the sake of another."""
    cause = _cause(error)
    if isinstance(cause, psycopg.Error):
        return cause.sqlstate in _VICTIMS
    return isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection itself may be the trouble: an idle one that died shows only when it is used."""
    cause = _cause(error)
    if isinstance(cause, psycopg.Error):
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) and (
            cause.sqlstate is None or cause.sqlstate.startswith(("08", "57P"))
        )
    return isinstance(error, InterfaceError | OperationalError) and not isinstance(cause, sqlite3.Error)


def words_of(error: BaseException) -> str:
    """Return the first line of what the database said, without the row that it may quote after it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, DjangoError) and error.__cause__ is not None else error
