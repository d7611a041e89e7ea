"""The `sql` executor against a real PostgreSQL and real files of SQLite."""

from __future__ import annotations

import os
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from orchestrator.store import LocalStore, log_key
from tests.conftest import given
from tests.contract.executors import EndingContract, Host, LongRunningContract, Recorder, context_for
from tests.support.waiting import eventually
from workers.executors.base import ExecutionResult, Executor, FailureKind, StopSignal
from workers.executors.sql import SqlExecutor

NAME = "warehouse"


class Server:
    """A database of our own on the test server, and a look at what goes on in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []

    def running(self) -> list[str]:
        """What attempts do at this moment."""
        rows = self.ask(
            "select query from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
            "and application_name like 'upbeat nightly/7/extract/1'"
        )
        return [query for (query,) in rows]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    url = given("UPBEAT_TEST_DATABASE_URL")
    name = f"sql_{os.getpid()}_{uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    one = Server(f"{url.rpartition('/')[0]}/{name}")
    try:
        yield one
    finally:
        one.connection.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def orders(server: Server) -> Iterator[Server]:
    """A table with five orders."""
    server.ask("create table orders (id int primary key, d date, note text)")
    server.ask("insert into orders select n, date '2026-11-20', 'order ' || n from generate_series(1, 5) n")
    yield server
    server.ask("drop table orders")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "orders file.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "create table orders (id integer primary key, d text, note text);"
            "insert into orders values (1, '2026-11-20', 'order 1'), (2, '2026-11-20', 'order 2');"
        )
    return path


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def run(url: str, statement: str, *, log: Recorder | None = None, **fields: Any) -> ExecutionResult:
    executor = fields.pop("executor", None) or SqlExecutor(patience=1.0)
    more = {name: fields.pop(name) for name in ("timeout", "stop") if name in fields}
    config = {"connection": NAME, "statement": statement, **fields}
    return executor.execute(context_for(config, Path(os.devnull), log=log, connections={NAME: url}, **more))


BAD: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"statement": "select 1"}, "connection"),
    ({"connection": NAME}, "statement"),
    ({"connection": NAME, "statement": "  "}, "statement"),
    ({"connection": NAME, "statement": ["select 1"]}, "statement"),
    ({"connection": NAME, "statement": "select 1" + " " * 300_000}, "statement"),
    ({"connection": NAME, "statement": "select :day", "bind": ["2026-11-21"]}, "bind"),
    ({"connection": NAME, "statement": "select 1", "bind": {"no-name": 1}}, "no-name"),
    ({"connection": NAME, "statement": "select 1", "result": "all"}, "result"),
    ({"connection": NAME, "statement": "select 1", "max_rows": 0}, "max_rows"),
    ({"connection": NAME, "statement": "select 1", "read_only": "yes"}, "read_only"),
    ({"connection": NAME, "statement": "select 1", "transaction": 1}, "transaction"),
    ({"connection": NAME, "statement": "select 1", "statment": "select 2"}, "statment"),
)
UNUSABLE: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"connection": "nowhere", "statement": "select 1"}, "nowhere"),
    ({"connection": NAME, "statement": "select :day"}, "bind.day"),
    ({"connection": NAME, "statement": "select 1", "bind": {"day": 1}}, "bind.day"),
    ({"connection": NAME, "statement": "select ':day' -- :day", "bind": {"day": 1}}, "bind.day"),
    ({"connection": NAME, "statement": "select :day", "bind": {"day": "\ud800"}}, "bind.day"),
    ({"connection": NAME, "statement": "select 'open"}, "statement"),
    ({"connection": NAME, "statement": "-- nothing\n;"}, "statement"),
    ({"connection": NAME, "statement": "select 1; commit; select 2"}, "transaction"),
    ({"connection": NAME, "statement": "select 1 as n, 2 as n", "result": "first_row"}, "called n"),
    ({"connection": NAME, "statement": "create table unused (a int)", "result": "rows"}, "result"),
)


class TestSqlOnPostgreSQL(LongRunningContract):
    type = "sql"
    good: Mapping[str, Any] = {
        "connection": NAME,
        "statement": "select count(*) as n from pg_class where relname = :name",
        "bind": {"name": "orders"},
        "result": "first_row",
        "max_rows": 10,
        "read_only": True,
        "transaction": True,
    }
    bad = BAD
    unusable = (
        *UNUSABLE,
        ({"connection": NAME, "statement": "select :day", "bind": {"day": "a\0b"}}, "bind.day"),
        ({"connection": NAME, "statement": "select :a, :ids", "bind": {"a": 1, "ids": [1, "x"]}}, "bind.ids"),
    )

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> Iterator[None]:
        self.server = server
        self.connections = {NAME: server.url}
        # A sequence is outside of every transaction: others see each step at once.
        server.ask("create sequence witness")
        server.ask(
            "create function tell(text) returns text language plpgsql as "
            "$$ begin raise notice 'told %', $1; return $1; end $$"
        )
        yield
        server.ask("drop sequence witness")
        server.ask("drop function tell(text)")

    def long(self, witness: Path) -> Mapping[str, Any]:
        loop = "do $$ begin loop perform nextval('witness'), pg_sleep(0.05); end loop; end $$"
        return {"connection": NAME, "statement": f"select nextval('witness') as up; {loop}"}

    def began(self, witness: Path) -> bool:
        return bool(self.server.ask("select is_called from witness")[0][0])

    def size(self, witness: Path) -> int:
        return int(self.server.ask("select last_value from witness")[0][0])

    def left_nothing(self, host: Host) -> bool:
        return self.server.running() == []

    def telling(self, parameter: str) -> Mapping[str, Any]:
        return {
            "connection": NAME,
            "statement": "select tell(:key) as key",
            "bind": {"key": f"${{params.{parameter}}}"},
            "result": "first_row",
        }

    def flood(self) -> Mapping[str, Any]:
        return {
            "connection": NAME,
            "statement": "do $$ begin loop raise notice '%', repeat('a line that never ends ', 2000); end loop; end $$",
        }


class TestSqlOnSQLite(EndingContract):
    type = "sql"
    good: Mapping[str, Any] = {
        "connection": NAME,
        "statement": "select count(*) as n from orders where d = :day",
        "bind": {"day": "2026-11-20"},
        "result": "first_row",
        "max_rows": 10,
        "read_only": True,
        "transaction": True,
    }
    bad = BAD
    unusable = (*UNUSABLE, ({"connection": NAME, "statement": "select :n", "bind": {"n": 2**64}}, "bind.n"))

    @pytest.fixture(autouse=True)
    def _file(self, file: Path) -> None:
        self.file = file
        self.connections = {NAME: sqlite_url(file)}

    def long(self, witness: Path) -> Mapping[str, Any]:
        # Each row costs some 20 ms and more room than the cache has, so the file grows from the beginning.
        slow = (
            "(with recursive m(y) as (select 1 union all select y + 1 from m where y < 50000) select count(*) from m)"
        )
        return {
            "connection": NAME,
            "statement": "select 'up'; pragma cache_size = 2; create table blobs (n, data); insert into blobs "
            f"with recursive n(x) as (select 1 union all select x + 1 from n) select {slow}, zeroblob(100000) from n",
        }

    def began(self, witness: Path) -> bool:
        return self.size(witness) > 20_000

    def size(self, witness: Path) -> int:
        return self.file.stat().st_size

    def assert_still(self, witness: Path) -> None:
        # What was written has been rolled back, so that nothing shows that it began but the log.
        assert not self.goes_on(witness)
        with closing(sqlite3.connect(self.file)) as connection:
            assert connection.execute("select name from sqlite_master").fetchall() == [("orders",)]

    def left_nothing(self, host: Host) -> bool:
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute("select count(*) from orders").fetchone() == (2,)


# Statements, values and results.


def test_values_are_never_parsed_as_sql(orders: Server, file: Path) -> None:
    hostile = "x'); drop table orders; --"
    for url in (orders.url, sqlite_url(file)):
        inserted = run(
            url,
            "insert into orders (id, note) values (:id, :note) returning note",
            bind={"id": 99, "note": hostile},
            result="first_row",
        )
        chosen = run(
            url, "select count(*) as n from orders where note = :note", bind={"note": "' or '1'='1"}, result="first_row"
        )

        assert inserted.result == {"note": hostile}
        assert chosen.result == {"n": 0}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@hypothesis_given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_text_comes_back_as_it_was_given(server: Server, file: Path, text: str) -> None:
    for url in (server.url, sqlite_url(file)):
        result = run(url, "select :v as v, ':v; --' as w", bind={"v": text}, result="first_row", read_only=True)

        assert result.result == {"v": text, "w": ":v; --"}


def test_a_bind_name_in_a_value_is_not_replaced_again(orders: Server) -> None:
    result = run(orders.url, "select :a as a, :b as b", bind={"a": ":b $2 %(b)s", "b": "x"}, result="first_row")

    assert result.result == {"a": ":b $2 %(b)s", "b": "x"}


def test_values_keep_their_types(server: Server) -> None:
    result = run(
        server.url,
        "select :n + 1 as n, :f::float8 as f, :b as b, :z::text as z, :day::date + 1 as day, "
        "2 = any(:ids) as among, :o::jsonb -> 'a' as a, :nested::jsonb as nested",
        bind={
            "n": 41, "f": 1.5, "b": True, "z": None, "day": "2026-11-21", "ids": [1, 2], "o": {"a": [1]},
            "nested": [{"b": 1}],
        },
        result="first_row",
    )  # fmt: skip

    assert result.result == {
        "n": 42, "f": 1.5, "b": True, "z": None, "day": "2026-11-22", "among": True, "a": [1], "nested": [{"b": 1}],
    }  # fmt: skip


def test_what_json_lacks_becomes_a_text(server: Server) -> None:
    result = run(
        server.url,
        "select 1.10::numeric as exact, timestamptz '2026-11-21 08:00+00' at time zone 'UTC' as moment, "
        "'infinity'::timestamp as never, '\\x00ff'::bytea as bytes, 'NaN'::float8 as nan, interval '1 day 2 h' as span, "
        "'10.0.0.0/8'::inet as net, '[1,5)'::int4range as range, array['2026-11-21'::date] as days",
        result="first_row",
    )

    assert result.result == {
        "exact": "1.10",
        "moment": "2026-11-21T08:00:00",
        "never": "infinity",
        "bytes": "AP8=",
        "nan": "NaN",
        "span": "1 day 02:00:00",
        "net": "10.0.0.0/8",
        "range": "[1, 5)",
        "days": ["2026-11-21"],
    }


def test_rows_are_capped_and_the_log_says_so(orders: Server, file: Path) -> None:
    for url, count in ((orders.url, 5), (sqlite_url(file), 2)):
        log = Recorder()

        result = run(url, "select id from orders order by id", result="rows", max_rows=1, log=log)

        assert result.result == [{"id": 1}]
        assert f"the result has the first 1 of {count} rows (max_rows)" in log.data.decode()


def test_no_row_is_no_result_and_no_failure(orders: Server) -> None:
    first, all_ = (
        run(orders.url, "select id from orders where id < 0", result=result) for result in ("first_row", "rows")
    )

    assert (first.failure, first.result) == (None, None)
    assert (all_.failure, all_.result) == (None, [])


def test_the_result_is_that_of_the_last_statement_that_returns_rows(orders: Server) -> None:
    result = run(
        orders.url,
        "select 1 as n; update orders set note = 'x' where id = 1 returning id as n; delete from orders where id = 2",
        result="first_row",
    )

    assert result.result == {"n": 1}


def test_a_million_rows_cost_no_memory(server: Server) -> None:
    import resource

    run(server.url, "select 1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(
        server.url, "select n, repeat('x', 200) as t from generate_series(1, 1000000) n", result="rows", max_rows=10
    )

    assert len(result.result) == 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_rows_larger_than_a_result_may_be_fail_before_anything_is_committed(orders: Server) -> None:
    result = run(
        orders.url,
        "delete from orders; select repeat('x', 1000) as t from generate_series(1, 100)",
        result="rows",
        executor=SqlExecutor(result_bytes=10_000),
    )

    assert (result.failure, orders.ask("select count(*) from orders")) == (FailureKind.PERMANENT, [(5,)])
    assert "larger than 10000 bytes" in result.reason


def test_the_log_tells_each_statement_its_rows_and_what_the_server_says(orders: Server) -> None:
    log = Recorder()

    run(
        orders.url,
        "-- tidy up\ndelete from orders\n where id > 3;\ndo $$ begin raise notice 'half way'; end $$;"
        "select id from orders;",
        log=log,
    )

    lines = log.data.decode().splitlines()
    assert [line.rpartition(" in ")[0] or line for line in lines] == [
        "1/3: delete from orders",
        "1/3: 2 rows changed",
        "2/3: do $$ begin raise notice 'half way'; end $$",
        "NOTICE: half way",
        "2/3: done",
        "3/3: select id from orders",
        "3/3: 3 rows",
    ]


# Transactions.


def test_all_statements_are_one_transaction(orders: Server, file: Path) -> None:
    for url in (orders.url, sqlite_url(file)):
        result = run(url, "delete from orders; insert into nowhere values (1)")

        assert result.failure is FailureKind.PERMANENT
        assert "statement 2 of 2" in result.reason
        assert "nowhere" in result.reason
        assert run(url, "select count(*) as n from orders", result="first_row").result["n"] > 0


def test_without_a_transaction_each_statement_stays(orders: Server, file: Path) -> None:
    for url in (orders.url, sqlite_url(file)):
        run(url, "delete from orders; insert into nowhere values (1)", transaction=False)

        assert run(url, "select count(*) as n from orders", result="first_row").result == {"n": 0}


def test_what_runs_in_no_transaction_runs_without_one(orders: Server, file: Path) -> None:
    for url in (orders.url, sqlite_url(file)):
        assert run(url, "vacuum", transaction=False).failure is None
        assert run(url, "vacuum").failure is FailureKind.PERMANENT


@pytest.mark.parametrize(
    "text",
    [
        "commit", "COMMIT AND CHAIN", "/* x */ rollback", "begin", "start transaction", "end", "abort",
        "prepare transaction 'x'", "rollback work",
    ],
)  # fmt: skip
@pytest.mark.parametrize("transaction", [True, False])
def test_no_text_begins_or_ends_a_transaction(orders: Server, text: str, transaction: bool) -> None:
    result = run(orders.url, f"delete from orders; {text}; select 1", transaction=transaction)

    assert result.failure is FailureKind.PERMANENT
    assert "transaction" in result.reason
    assert orders.ask("select count(*) from orders") == [(5,)]


def test_a_block_cannot_commit_the_tasks_transaction(orders: Server) -> None:
    result = run(orders.url, "delete from orders; do $$ begin commit; end $$")

    assert result.failure is FailureKind.PERMANENT
    assert orders.ask("select count(*) from orders") == [(5,)]


def test_going_back_to_a_savepoint_is_no_end(orders: Server, file: Path) -> None:
    for url in (orders.url, sqlite_url(file)):
        result = run(
            url, "savepoint a; delete from orders; rollback to a; select count(*) > 0 as any from orders",
            result="first_row",
        )  # fmt: skip

        assert bool(result.result["any"])


ESCAPES = [
    "delete from orders",
    "set transaction read write; delete from orders",
    "select 1; set transaction read write; delete from orders",
    "set session characteristics as transaction read write; delete from orders",
    "set default_transaction_read_only = off; delete from orders",
    "select set_config('transaction_read_only', 'off', true); delete from orders",
    "select set_config('default_transaction_read_only', 'off', false); delete from orders",
    "reset all; delete from orders",
    "do $$ begin perform set_config('transaction_read_only', 'off', true); delete from orders; end $$",
    "with gone as (delete from orders returning id) select * from gone",
    "savepoint a; set transaction read write; delete from orders",
    "create table t as select 1",
    "select nextval('pg_catalog.nothing'); delete from orders",
]


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("text", ESCAPES)
def test_a_read_only_task_writes_nothing_whatever_its_text_says(orders: Server, text: str, transaction: bool) -> None:
    result = run(orders.url, text, read_only=True, transaction=transaction)

    assert result.failure is FailureKind.PERMANENT
    assert orders.ask("select count(*) from orders") == [(5,)]


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize(
    "text", ["delete from orders", "pragma query_only = 0; delete from orders", "create table t (a)"]
)
def test_a_read_only_task_writes_nothing_to_a_file(file: Path, text: str, transaction: bool) -> None:
    before = file.read_bytes()

    assert run(sqlite_url(file), text, read_only=True, transaction=transaction).failure is FailureKind.PERMANENT
    assert file.read_bytes() == before


def test_read_only_reads_a_file_with_a_write_ahead_log(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("pragma journal_mode = wal")

    assert run(sqlite_url(file), "select count(*) as n from orders", read_only=True, result="first_row").result == {
        "n": 2
    }


def test_a_connection_to_a_file_reaches_no_other(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite3"
    for text in (f"attach '{other}' as o", f"vacuum into '{other}'", "pragma temp_store_directory = '/'"):
        result = run(sqlite_url(file), text, transaction=False)

        assert (result.failure, "refused" in result.reason) == (FailureKind.PERMANENT, True)
    assert not other.exists()


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    result = run(sqlite_url(tmp_path / "gone.sqlite3"), "select 1")

    assert (result.failure, list(tmp_path.iterdir())) == (FailureKind.PERMANENT, [])
    assert "gone.sqlite3" in result.reason


def test_a_writer_waits_for_the_lock_of_a_file(file: Path) -> None:
    log = Recorder()
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("begin immediate")
        threading.Timer(0.5, holder.rollback).start()
        waited = run(sqlite_url(file), "delete from orders", log=log)
        holder.execute("begin immediate")
        late = run(sqlite_url(file), "delete from orders", timeout=0.5)

    assert waited.failure is None
    assert "waiting" in log.data.decode()
    assert late.failure is FailureKind.TIMEOUT


# The end of a statement, and what an error means.


def in_the_background(call: Callable[[], ExecutionResult]) -> Any:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_a_cancelled_query_is_gone_from_the_server(server: Server) -> None:
    stop = StopSignal()
    future = in_the_background(lambda: run(server.url, "select pg_sleep(600)", stop=stop))
    eventually(lambda: any("pg_sleep" in query for query in server.running()))

    stop.request("cancelled")
    eventually(lambda: server.running() == [], within=3)

    assert (future.result(5).failure, future.result(5).reason) == (FailureKind.STOPPED, "cancelled")


def test_a_query_that_is_out_of_time_is_gone_from_the_server(server: Server) -> None:
    result = run(server.url, "select pg_sleep(600)", timeout=0.5)

    assert (result.failure, result.reason) == (FailureKind.TIMEOUT, "timed out after 0.5 s")
    eventually(lambda: server.running() == [], within=2)


def test_a_text_that_lifts_the_servers_limit_still_ends(server: Server) -> None:
    result = run(server.url, "set statement_timeout = 0; select pg_sleep(600)", timeout=0.7)

    assert result.failure is FailureKind.TIMEOUT
    eventually(lambda: server.running() == [], within=2)


def test_a_text_may_set_a_shorter_limit(server: Server) -> None:
    for transaction in (True, False):
        result = run(server.url, "set statement_timeout = 100; select pg_sleep(600)", transaction=transaction)

        assert result.failure is FailureKind.RETRYABLE
        assert "statement timeout" in result.reason


@pytest.mark.kill
def test_the_server_ends_a_statement_whose_worker_is_frozen(server: Server, tmp_path: Path) -> None:
    import signal

    config = {"connection": NAME, "statement": "select 'up'; select pg_sleep(600)"}
    host = Host(tmp_path / "host", "sql", config, connections={NAME: server.url}, timeout=4)
    try:
        eventually(lambda: any("pg_sleep" in query for query in server.running()))
        host.process.send_signal(signal.SIGSTOP)

        eventually(lambda: not any("pg_sleep" in q for q in active(server)), within=10)
    finally:
        host.process.send_signal(signal.SIGCONT)
        host.kill()


def active(server: Server) -> list[str]:
    rows = server.ask("select query from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()")
    return [query for (query,) in rows]


@pytest.mark.parametrize("transaction", [True, False])
def test_a_connection_ended_in_mid_statement(orders: Server, transaction: bool) -> None:
    text = "delete from orders; select pg_sleep(600)"
    future = in_the_background(lambda: run(orders.url, text, transaction=transaction))
    eventually(lambda: any("pg_sleep" in query for query in orders.running()))

    orders.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'upbeat nightly%%'")

    result = future.result(5)
    left = orders.ask("select count(*) from orders")[0][0]
    assert (result.failure, left) == ((FailureKind.RETRYABLE, 5) if transaction else (FailureKind.UNKNOWN, 0))
    assert "terminating connection due to administrator command" in result.reason


def test_a_connection_lost_in_a_read_only_task_changed_nothing(orders: Server) -> None:
    text = "select pg_terminate_backend(pg_backend_pid())"

    assert run(orders.url, text, read_only=True, transaction=False).failure is FailureKind.RETRYABLE


@pytest.mark.parametrize("passed_on", [True, False])
def test_a_connection_cut_in_commit_is_unknown(orders: Server, passed_on: bool) -> None:
    with cut_at_commit(orders.url, passed_on=passed_on) as url:
        result = run(url, "delete from orders")

    eventually(lambda: orders.running() == [])
    assert result.failure is FailureKind.UNKNOWN
    assert "COMMIT" in result.reason
    assert orders.ask("select count(*) from orders") == [(0 if passed_on else 5,)]


@pytest.mark.slow
def test_a_commit_without_an_answer_ends_at_the_deadline(orders: Server) -> None:
    with cut_at_commit(orders.url, passed_on=True, silent=True) as url:
        began = time.monotonic()
        result = run(url, "delete from orders", timeout=1.0)

    assert result.failure is FailureKind.TIMEOUT
    assert "COMMIT" in result.reason
    assert time.monotonic() - began < 6


@pytest.mark.slow
def test_a_server_that_says_nothing_is_left_at_the_deadline(orders: Server) -> None:
    with cut_at_commit(orders.url, at=b"pg_sleep", passed_on=False, silent=True) as url:
        began = time.monotonic()
        result = run(url, "select pg_sleep(0)", timeout=1.0)

    assert result.failure is FailureKind.TIMEOUT
    assert time.monotonic() - began < 6


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    result = run(f"postgresql://u:hunter2@127.0.0.1:{port}/x", "select 1")

    assert result.failure is FailureKind.RETRYABLE
    assert "refused" in result.reason


@pytest.mark.slow
def test_nobody_answers() -> None:
    stop = StopSignal()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:hunter2@127.0.0.1:{silent.getsockname()[1]}/x"
        began = time.monotonic()
        late = run(url, "select 1", timeout=0.5)
        future = in_the_background(lambda: run(f"{url}?connect_timeout=2", "select 1", stop=stop))
        time.sleep(0.2)
        stop.request("cancelled")
        stopped = future.result(10)

    assert (late.failure, "no connection within 0.5 s" in late.reason) == (FailureKind.RETRYABLE, True)
    assert (stopped.failure, stopped.reason) == (FailureKind.STOPPED, "cancelled")
    assert time.monotonic() - began < 6


def test_a_server_without_room_is_worth_another_try(server: Server) -> None:
    name = urlsplit(server.url).path[1:]
    server.ask("create role narrow login password 'narrow' connection limit 0")
    try:
        host = server.url.rpartition("@")[2]
        result = run(f"postgresql://narrow:narrow@{host}", "select 1")
    finally:
        server.ask("drop role narrow")

    assert result.failure is FailureKind.RETRYABLE, name
    assert "too many connections" in result.reason


def test_a_wrong_password_and_an_unknown_database_are_permanent(server: Server) -> None:
    parts = urlsplit(server.url)
    wrong = server.url.replace(parts.password or "", "wrong-password")

    for url in (wrong, f"{server.url}x"):
        result = run(url, "select 1")

        assert result.failure is FailureKind.PERMANENT
        assert "wrong-password" not in result.reason


def test_a_deadlock_and_a_failed_serialization_are_worth_another_try(orders: Server) -> None:
    with psycopg.connect(orders.url) as other:
        other.execute("update orders set note = 'a' where id = 1")
        future = in_the_background(
            lambda: run(
                orders.url, "update orders set note = 'b' where id = 2; update orders set note = 'b' where id = 1"
            )
        )
        eventually(lambda: any("id = 1" in query for query in orders.running()))
        other.execute("set local deadlock_timeout = '60s'")
        try:
            other.execute("update orders set note = 'a' where id = 2")
        finally:
            other.rollback()
    deadlock = future.result(10)

    late = in_the_background(
        lambda: run(
            orders.url,
            "set transaction isolation level serializable; select count(*) from orders; select pg_sleep(0.7);"
            "update orders set note = 'b' where id = 1",
        )
    )
    eventually(lambda: any("pg_sleep" in query for query in orders.running()))
    orders.ask("update orders set note = 'c' where id = 1")

    assert (deadlock.failure, "deadlock" in deadlock.reason) == (FailureKind.RETRYABLE, True)
    assert (late.result(5).failure, "could not serialize" in late.result(5).reason) == (FailureKind.RETRYABLE, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("insert into orders values (1)", "duplicate key value"),
        ("select 1 / 0", "division by zero"),
        ("select * from nowhere", 'relation "nowhere" does not exist'),
        ("set role nobody_at_all", "nobody_at_all"),
        ("select $1", "bind message supplies 0 parameters"),
        ("copy orders to stdout", "COPY"),
        ("copy orders from stdin", "COPY"),
    ],
)
def test_what_would_fail_again_is_permanent_in_the_servers_words(orders: Server, text: str, words: str) -> None:
    result = run(orders.url, text)

    assert result.failure is FailureKind.PERMANENT
    assert words in result.reason
    assert "\n" not in result.reason


def test_a_constraint_that_is_checked_at_commit_is_no_mystery(orders: Server) -> None:
    orders.ask("create table lines (order_id int references orders deferrable initially deferred)")
    try:
        result = run(orders.url, "insert into lines values (77)")
    finally:
        orders.ask("drop table lines")

    assert result.failure is FailureKind.PERMANENT
    assert "foreign key" in result.reason


def test_an_error_that_a_text_raises_itself_may_pass(orders: Server) -> None:
    result = run(orders.url, "do $$ begin raise exception 'not loaded yet'; end $$")

    assert (result.failure, "not loaded yet" in result.reason) == (FailureKind.RETRYABLE, True)


def test_an_unknown_dialect_names_those_that_are_known() -> None:
    result = run("mysql://u:p@h/x", "select 1")

    assert result.failure is FailureKind.PERMANENT
    assert "mysql" in result.reason
    assert "postgresql (driver psycopg 3) and sqlite" in result.reason


def test_administrators_see_whose_query_it_is(server: Server) -> None:
    result = run(server.url, "select current_setting('application_name') as name", result="first_row")

    assert result.result == {"name": "upbeat nightly/7/extract/1"}


def test_the_documented_job_runs_on_both(server: Server, tmp_path: Path) -> None:
    tables = "create table orders (d date, amount numeric); create table daily (d date, orders int, note text)"
    path = tmp_path / "sales.sqlite3"
    path.touch()
    count, close = documented_tasks()
    for url in (server.url, sqlite_url(path)):
        assert run(url, f"{tables}; insert into orders values ('2026-11-20', 1.5), ('2026-11-20', 2)").failure is None
        for _ in range(2):
            counted = run(url, **{**count, "bind": {"day": "2026-11-20"}})
            closed = run(url, **{**close, "bind": {"day": "2026-11-20", "orders": counted.result["n"]}})

            assert (counted.failure, closed.failure) == (None, None)
        assert counted.result["n"] == 2
        assert float(counted.result["total"]) == 3.5
        assert run(url, "select d, orders from daily", result="rows").result == [{"d": "2026-11-20", "orders": 2}]
    server.ask("drop table orders, daily")


def documented_tasks() -> list[dict[str, Any]]:
    page = (Path(__file__).parents[2] / "docs" / "write-jobs.md").read_text()
    block = page.partition("### `sql`")[2].partition("```yaml")[2].partition("```")[0]
    own = ("statement", "result", "read_only")
    return [{field: task[field] for field in own if field in task} for task in yaml.safe_load(block)["tasks"]]


class TestMasking:
    """What a connection hides is in no log, result or reason."""

    def attempt(self, tmp_path: Path, url: str, statement: str, **fields: Any) -> tuple[str, str]:
        contract = TestSqlOnPostgreSQL()
        contract.connections = {NAME: url}
        store = LocalStore(tmp_path / "store")
        outcome = contract.attempt(store, {"connection": NAME, "statement": statement, **fields})
        return store.read(log_key(7, 700)).decode(), repr(outcome)

    @pytest.mark.parametrize("in_query", [False, True])
    def test_the_password_of_a_connection_is_masked(self, server: Server, tmp_path: Path, in_query: bool) -> None:
        password, host = "p4ss/w+rd of ours", server.url.rpartition("@")[2]
        server.ask("create role teller login password 'p4ss/w+rd of ours'")
        try:
            url = f"postgresql://teller:p4ss%2Fw%2Brd%20of%20ours@{host}"
            if in_query:
                url = f"postgresql://{host}?user=teller&password=p4ss%2Fw%2Brd%20of%20ours"
            log, outcome = self.attempt(
                tmp_path, url,
                f"do $$ begin raise notice 'it is {password}, %', encode('{password}', 'base64'); end $$;"
                f"select '{password}' as plain, 'p4ss%2Fw%2Brd%20of%20ours' as quoted, '{url}' as url",
                result="first_row",
            )  # fmt: skip
        finally:
            server.ask("drop role teller")

        assert "***" in log
        assert "***" in outcome
        for said in (password, "p4ss%2Fw%2Brd", "cDRzcy93K3JkIG9mIG91cn"):
            assert said not in log + outcome

    def test_a_secret_value_in_the_servers_words_is_masked(self, orders: Server, tmp_path: Path) -> None:
        contract = TestSqlOnPostgreSQL()
        contract.connections = {NAME: orders.url}
        outcome = contract.attempt(
            LocalStore(tmp_path / "store"),
            {"connection": NAME, "statement": "select :key::int", "bind": {"key": "${params.key}"}},
            parameters={"key": {"secret": "k"}},
            secret_parameters=["key"],
            secrets={"k": "hunter2-hunter2"},
        )

        assert outcome.result.failure is FailureKind.PERMANENT
        assert "invalid input syntax" in outcome.result.reason
        assert "hunter2" not in repr(outcome)


@contextmanager
def cut_at_commit(url: str, *, at: bytes = b"commit\0", passed_on: bool, silent: bool = False) -> Iterator[str]:
    """A proxy before the server that cuts the connection when the client sends COMMIT, before or after passing it on.

    `silent`: it does not cut, it only never answers again.
    """
    parts = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    open_: list[socket.socket] = [listener]

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection((parts.hostname, parts.port))
            open_.extend((client, upstream))
            mute = threading.Event()
            for work, *between in ((forward, client, upstream), (back, upstream, client)):
                threads.append(threading.Thread(target=work, args=(*between, mute), daemon=True))
                threads[-1].start()

    def forward(client: socket.socket, upstream: socket.socket, mute: threading.Event) -> None:
        while data := receive(client):
            if at in data:
                mute.set()
                if passed_on:
                    upstream.sendall(data)
                    time.sleep(0.3)  # until it has taken place
                if not silent:
                    # A reset, as from a host that is gone: the client must not read an answer.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    break
                continue
            upstream.sendall(data)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_RDWR)

    def back(upstream: socket.socket, client: socket.socket, mute: threading.Event) -> None:
        while data := receive(upstream):
            if not mute.is_set():
                with suppress(OSError):
                    client.sendall(data)

    threads.append(threading.Thread(target=serve, daemon=True))
    threads[-1].start()
    try:
        yield url.replace(f":{parts.port}/", f":{listener.getsockname()[1]}/")
    finally:
        for one in open_:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join(5)


def receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def test_the_executor_of_a_worker_is_this_one() -> None:
    from workers.executors.registry import executor_for

    found: Executor = executor_for("sql")
    assert isinstance(found, SqlExecutor)
