"""The cursor that a thread keeps for its statements that stand alone: of its connection as it is now."""

from __future__ import annotations

import threading

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.ledger.transactions import kept_cursor


def answer() -> int:
    cursor = kept_cursor()
    cursor.execute("select 1")
    return int(cursor.fetchone()[0])


@pytest.mark.django_db
def test_one_cursor_serves_many_statements():
    assert answer() == answer() == 1
    assert kept_cursor() is kept_cursor()


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_has_a_new_cursor():
    before = kept_cursor()
    connection.close()

    assert answer() == 1
    assert kept_cursor() is not before


@pytest.mark.django_db(transaction=True)
def test_each_thread_has_its_own():
    cursors = [kept_cursor()]

    def keep() -> None:
        cursors.append(kept_cursor())
        connection.close()

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join(10)

    assert len(cursors) == 2
    assert cursors[0] is not cursors[1]


@pytest.mark.django_db
def test_what_it_executes_is_counted():
    kept_cursor()

    with CaptureQueriesContext(connection) as captured:
        answer()

    assert len(captured) == 1
