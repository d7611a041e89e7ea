"""Splitting a text into statements and finding its `:name`s, as each database reads it; what validation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.parse import parse_definition
from tests.support.definitions import problems_of
from workers.executors import sql
from workers.executors.databases.statements import CannotSplit, Dialect, split


def texts(text: str, dialect: Dialect = "postgres") -> list[str]:
    return [statement.text for statement in split(text, dialect)]


def names(text: str, dialect: Dialect = "postgres") -> list[str]:
    return [bind.name for statement in split(text, dialect) for bind in statement.binds]


BOTH: tuple[Dialect, ...] = ("postgres", "sqlite")


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ;; -- nothing\n /* at ; all */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("select ';' ; select 'it''s ; fine'", ["select ';'", "select 'it''s ; fine'"]),
        ('select "a;b" from t; select 2', ['select "a;b" from t', "select 2"]),
        ("select 1 -- one; two\n; select 2", ["select 1", "select 2"]),
        ("select 1 /* one; two */ + 1; select 2", ["select 1 /* one; two */ + 1", "select 2"]),
        ("select '😀;é' as \"ü;\"; select 2", ["select '😀;é' as \"ü;\"", "select 2"]),
        ("select 'a\\'; select 2", ["select 'a\\'", "select 2"]),
        ("select case when 1 > 0 then 1 end; select 2", ["select case when 1 > 0 then 1 end", "select 2"]),
        ("create table begin_end (a int); select 2", ["create table begin_end (a int)", "select 2"]),
    ],
)
def test_a_semicolon_ends_a_statement_only_where_the_database_sees_one(
    text: str, expected: list[str], dialect: Dialect
) -> None:
    assert texts(text, dialect) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("select $$ a; b $$; select 2", 2),
        ("select $body$ a; $$ b; $body$; select 2", 2),
        ("select E'it\\'s ; fine'; select 2", 2),
        ("select U&'a;b', B'01', X'1F', N'c;d'; select 2", 2),
        ("/* outer /* inner ; */ still ; outside */ select 1; select 2", 2),
        ("do $$ begin perform 1; perform 2; end $$; call p(1); do language plpgsql $x$ begin end; $x$", 3),
        ("create function f() returns int language sql as $$ select 1; select 2 $$; select f()", 2),
        ("create function f() returns int begin atomic select 1; select case when true then 2 end; end; select f()", 2),
        ("create or replace procedure p() begin atomic delete from a; delete from b; end; call p()", 2),
        ("select 1 as \"begin\"; select 2", 2),
        ("grant select on t to u; comment on table t is 'a;b'; listen x", 3),
    ],
)  # fmt: skip
def test_postgresql_bodies_of_blocks_and_routines_are_one_statement(text: str, count: int) -> None:
    assert len(texts(text)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("select [a;b], `c;d` from t; select 2", 2),
        ("create trigger a after insert on t begin update t set v = 1; delete from u; end; select 2", 2),
        ("create temp trigger a after insert on t begin select case when 1 then 2 end; end; select 2", 2),
    ],
)
def test_sqlite_bodies_of_triggers_are_one_statement(text: str, count: int) -> None:
    assert len(texts(text, "sqlite")) == count


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("text", ["select 'open", 'select "open', "select 1 /* open"])
def test_what_does_not_end_is_refused(text: str, dialect: Dialect) -> None:
    with pytest.raises(CannotSplit):
        split(text, dialect)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select :a, :b_1, :a", ["a", "b_1", "a"]),
        ("select :day::date, x::int, :n :: text", ["day", "n"]),
        ("select ':a', \":b\", $$ :c $$, E':d\\':e' -- :f\n /* :g */, :h", ["h"]),
        ("select a[1:2], a[i:j], a[:n], '12:30:45'::time", ["n"]),
        ("select f(x := 1, y => :y)", ["y"]),
        ("select : a, :1, :", []),
        ("select :date, :from, :select, :order by 1", ["date", "from", "select", "order"]),
        ("call p(:a); execute q(:b); explain select :c; set x = :d", ["a", "b", "c", "d"]),
        ("select j -> :key, j #>> '{a}', j @> :o, j ? 'k'", ["key", "o"]),
        ("select :a;select :b", ["a", "b"]),
        ("select(:a)", ["a"]),
        ("select 1 where x=:a and y<>:b or z in (:c,:d)", ["a", "b", "c", "d"]),
        ("select :ünicode", []),
    ],
)
def test_a_bind_name_is_found_only_where_it_is_one(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_a_statement_is_rewritten_at_its_binds_alone() -> None:
    (first, second) = split("/* :x */ select ':a', :a, :b::int -- :c\n; select :b || ':b'", "postgres")

    assert first.with_binds({"a": "$1", "b": "$2"}) == "select ':a', $1, $2::int"
    assert second.with_binds({"b": "$1"}) == "select $1 || ':b'"


PIECES = st.sampled_from(
    [
        ("select 1", []),
        ("select ';' || :a", ["a"]),
        ("select $$ ; :no $$, :b::int", ["b"]),
        ('select "x;:no" -- ; :no\n from t', []),
        ("/* ; :no */ update t set a = :a where b = E'\\';:no'", ["a"]),
        ("do $x$ begin perform ';'; end $x$", []),
        ("create function f() returns int begin atomic select :c; select 2; end", ["c"]),
        ("call p(:a, :b)", ["a", "b"]),
        ("select a[1:2], t.x::text", []),
    ]
)


@given(
    st.lists(PIECES, max_size=6),
    st.lists(st.sampled_from([";", " ; ", ";;", "; -- ;:no\n", ";\n/* ; */\n"]), min_size=6),
)
def test_any_text_of_known_statements_comes_apart_as_it_was_put_together(
    pieces: list[tuple[str, list[str]]], between: list[str]
) -> None:
    text = "".join(piece + end for (piece, _), end in zip(pieces, between, strict=False))

    found = split(text, "postgres")

    assert [[bind.name for bind in statement.binds] for statement in found] == [binds for _, binds in pieces]


@pytest.mark.parametrize(
    ("text", "controls"),
    [
        ("commit", True), ("COMMIT WORK", True), ("begin", True), ("Start  Transaction", True), ("end", True),
        ("abort", True), ("rollback", True), ("rollback work", True), ("prepare transaction 'x'", True),
        ("rollback to a", False), ("ROLLBACK TRANSACTION TO SAVEPOINT a", False), ("savepoint a", False),
        ("prepare q as select 1", False), ("commit_log()", False), ("select 'commit'", False), ("ended", False),
    ],
)  # fmt: skip
def test_what_begins_or_ends_a_transaction_is_known_by_its_first_words(text: str, controls: bool) -> None:
    assert split(f"/* x */ {text}", "postgres")[0].controls_transaction is controls


# What validation says of a definition, before any connection is known.


def problems(**fields: Any) -> list[tuple[str, str]]:
    import yaml

    task = {"name": "load", "type": "sql", "connection": "warehouse", **fields}
    text = yaml.safe_dump(
        {"kind": "Job", "name": "nightly", "parameters": [{"name": "day", "type": "date"}], "tasks": [task]}
    )
    (definition,) = parse_definition(text, task_types={"sql": sql.TYPE}, pools=("default",))
    return [(problem.path.removeprefix("tasks[0]."), problem.message) for problem in definition.problems]


def test_a_good_definition_has_no_problem() -> None:
    assert problems(statement="select count(*) as n from orders where d = :day", bind={"day": "${params.day}"}) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"statement": "select :day"}, [("bind.day", "missing")]),
        ({"statement": "select 1", "bind": {"day": 1}}, [("bind.day", "not used")]),
        ({"statement": "select ':day'", "bind": {"day": 1}}, [("bind.day", "not used")]),
        ({"statement": "select 'open"}, [("statement", "not SQL")]),
        ({"statement": "-- nothing"}, [("statement", "empty")]),
        ({"statement": "begin; select 1; commit"}, [("statement", "begins or ends a transaction")] * 2),
        (
            {"statement": "select * from orders where d = '${params.day}'"},
            [("statement", "placeholder in the fixed text of statement")],
        ),
        (
            {"statement": "select 1", "connection": "${params.day}"},
            [("connection", "placeholder in the fixed text of connection")],
        ),
        ({"statement": 7}, [("statement", "wrong type")]),
        ({"statement": "select :day", "bind": "day"}, [("bind", "wrong type")]),
    ],
)
def test_a_bad_definition_says_what_is_wrong(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = problems(**fields)

    assert [each for each in found if each in expected] == expected
    assert {path for path, _ in found} == {path for path, _ in expected}


def test_what_only_one_database_would_refuse_is_no_problem_yet() -> None:
    # A dollar quote is a string to PostgreSQL and none to SQLite; `validate` does not know which it will be.
    assert problems(statement="select $$ it's; :day $$") == []


def test_a_placeholder_in_the_text_is_sent_to_bind() -> None:
    import yaml

    text = yaml.safe_dump(
        {"kind": "Job", "name": "nightly", "tasks": [
            {"name": "load", "type": "sql", "connection": "w", "statement": "select '${run.id}'"}
        ]}
    )  # fmt: skip
    (definition,) = parse_definition(text, task_types={"sql": sql.TYPE}, pools=("default",))

    assert [problem.expected for problem in definition.problems] == [
        "the value through bind: this text is never a template"
    ]


def test_the_job_in_the_docs_on_secrets_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "secrets.md").read_text()

    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        assert problems_of(block) == []


def test_the_libraries_are_not_loaded_before_a_task_needs_them() -> None:
    import subprocess
    import sys

    code = (
        "import sys, workers.executors.registry; "
        "print([m for m in ('sqlalchemy', 'sqlglot', 'psycopg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
