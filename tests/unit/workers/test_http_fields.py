"""Whatever stands in the fields of an http task, reading them ends in a request or in a problem with a field's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.executors.http_fields import SCHEMA, BadField, HttpConfig, check, read_config

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS
    | st.sampled_from(["${params.x}", "5s", "4Mi", "http://a.example/", "status == 200", "body", "GET", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "status", "body", "read", "connect", "X-A", "", "Bad Name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from([*SCHEMA["properties"], "unknown"]), ANYTHING, max_size=5)


@given(FIELDS)
def test_reading_never_fails_in_another_way(fields: dict[str, Any]) -> None:
    problem = None
    try:
        config = read_config(fields)
    except BadField as bad:
        problem = bad.problem

    if problem is None:
        assert isinstance(config, HttpConfig)
    else:
        assert problem.path
        assert problem.expected


@given(FIELDS)
def test_checking_never_fails(fields: dict[str, Any]) -> None:
    for problem in check(fields):
        assert problem.path
        assert problem.message


@given(FIELDS)
def test_what_is_a_problem_of_a_definition_is_one_of_an_attempt(fields: dict[str, Any]) -> None:
    if list(check(fields)):
        with pytest.raises(BadField):
            read_config(fields)


def test_a_value_is_masked_before_it_is_cut() -> None:
    secret = "s3cret" * 10

    with pytest.raises(BadField) as bad:
        read_config({"url": "http://a.example/", "max_body": "x" * 100 + secret})

    assert "s3cret" not in bad.value.words(lambda text: text.replace(secret, "***"))
