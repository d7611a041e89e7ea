from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dag.yaml_source import Document, Limits, read_documents


def read(text: str | bytes, **limits: int) -> Document:
    (document,) = read_documents(text, Limits(**limits))
    return document


def value_of(text: str) -> Any:
    document = read(text)
    assert document.root is not None, document.problems
    assert document.problems == ()
    return document.root.plain()


def messages(text: str | bytes, **limits: int) -> list[str]:
    return [str(problem) for problem in read(text, **limits).problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("2026-12-01", "2026-12-01"),
        ("2026-12-01T08:00:00Z", "2026-12-01T08:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-5", -5),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.2.3", "1.2.3"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("9223372036854775807", 2**63 - 1),
        ("<<", "<<"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any):
    read_value = value_of(f"x: {text}")["x"]

    assert read_value == value
    assert type(read_value) is type(value)


def test_keys_are_texts():
    assert value_of("{on: 1, no: 2, 200: 3, null: 4, true: 5}") == {"on": 1, "no": 2, "200": 3, "null": 4, "true": 5}


def test_every_value_knows_its_line_and_column():
    document = read("a:\n  - b: 1\n    c: text\n")
    assert document.root is not None

    node = document.root.nearest(("a", 0, "c"))

    assert (node.value, node.line, node.column) == ("text", 3, 8)
    assert document.root.nearest(("a", 0)).key_places["c"] == (3, 5)


def test_the_place_of_what_is_not_there_is_the_nearest_on_the_way():
    document = read("a:\n  - b: 1\n")
    assert document.root is not None

    assert document.root.nearest(("a", 0, "missing", "x")).line == 2
    assert document.root.nearest(("a", 7)).line == 2


def test_duplicate_keys_are_problems():
    (message,) = messages("a: {x: 1, y: 2, x: 3}\n")

    assert message == '1:17: a.x: duplicate key, first in line 1; found "x"; expected each key once'


def test_aliases_stand_for_what_they_name():
    assert value_of("a: &x [1, {b: 2}]\nc: *x\n") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_an_alias_inside_what_it_names_is_refused():
    assert "stands inside what it names" in messages("a: &x [*x]")[0]


def test_an_alias_of_nothing_is_refused():
    assert "names nothing above it" in messages("a: *x")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x: .nan", "a finite number"),
        ("x: -.inf", "a finite number"),
        ("x: 9223372036854775808", "at most 64 bits"),
        ("x: " + "9" * 6000, "at most 64 bits"),
        ("x: 1e999", "a number that a double can hold"),
        ("x: !!int '5'", "no tags"),
        ("x: !!python/object/apply:os.system [ls]", "no tags"),
        ("x: !!set {a}", "no tags"),
        ('x: "a\\0b"', "a NUL character"),
        ("? [a]\n: 1", "a text"),
        ("x: [1, 2", "YAML or JSON"),
        ("a: b: c", "YAML or JSON"),
        ("\x01", "YAML or JSON"),
        ("x: '\ud800'", "UTF-8"),
        (b"\xff\xfe", "UTF-8"),
        ("%YAML 1.2\n%TAG ! x\n--- a", "no directives"),
    ],
)
def test_what_cannot_be_read_is_a_problem(text: str | bytes, expected: str):
    assert any(expected in message for message in messages(text))


def test_a_document_that_goes_wrong_late_keeps_its_line():
    (problem,) = read("a: 1\nb: 2\nc: [\n").problems

    assert problem.line is not None
    assert problem.line >= 3


def test_several_documents_each_keep_their_own_text():
    first, second = read_documents("a: 1\n---\nb: 2\n", Limits())

    assert (first.source, second.source) == ("a: 1\n", "---\nb: 2\n")


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert value_of("\ufeffa: 1") == {"a": 1}
    assert read(b"\xef\xbb\xbfa: 1").root is not None


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_not():
    assert messages("x" * 100, size=100) == []
    assert "at most 99 bytes" in messages("x" * 100, size=99)[0]


def test_depth_at_the_limit_is_read_and_one_more_is_not():
    assert messages("[" * 5 + "]" * 5, depth=5) == []
    assert "at most 4 levels" in messages("[" * 5 + "]" * 5, depth=4)[0]


def test_nodes_are_counted_with_their_aliases():
    text = "a: &x [1, 2, 3]\nb: [*x, *x]\n"

    assert messages(text, nodes=16) == []
    assert "at most 15 values" in messages(text, nodes=15)[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\u00e9 \U0001f600:#'\"\\/", max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_json_is_read_as_json(value: Any):
    wrapped = {"x": value}

    read_value = value_of(json.dumps(wrapped))

    assert read_value == wrapped
    assert json.dumps(read_value) == json.dumps(wrapped)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str):
    assert read_documents(text, Limits()) is not None


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(text: bytes):
    assert read_documents(text, Limits()) is not None


@given(st.text("-[]{}&*a:b ,\n\"'?|>!%", max_size=60))
def test_yaml_marks_in_any_order_are_read_or_refused(text: str):
    for document in read_documents(text, Limits()):
        assert document.root is not None or document.problems
