"""A text of SQL as single statements with the places of their `:name`s. The database's own rules of strings, dollar
quotes and comments are sqlglot's; nothing is parsed or rewritten beyond that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

Dialect = Literal["postgres", "sqlite"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What begins or ends a transaction; going back to a savepoint does neither.
_TRANSACTION = re.compile(
    r"(begin|start\s+transaction|commit|end|abort|prepare\s+transaction"
    r"|rollback(?!(\s+(work|transaction))?\s+to\b))\b",
    re.IGNORECASE,
)
_ROUTINES = ("trigger", "function", "procedure")


class CannotSplit(Exception):
    """The text is no SQL, as far as its strings and comments go."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A `:name` in a statement: from the colon to the name's end."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, without its semicolon and the comments around it."""

    text: str
    binds: tuple[Bind, ...]

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0].rstrip()

    @property
    def controls_transaction(self) -> bool:
        return _TRANSACTION.match(self.text) is not None

    def with_binds(self, written: dict[str, str]) -> str:
        """Return the text with each `:name` written as the database's driver wants it."""
        pieces, at = [], 0
        for bind in self.binds:
            pieces += [self.text[at : bind.start], written[bind.name]]
            at = bind.end
        return "".join([*pieces, self.text[at:]])


def split(text: str, dialect: Dialect) -> list[Statement]:
    """Split a text at its semicolons. Raises CannotSplit for a string or comment that does not end."""
    from sqlglot.errors import TokenError

    try:
        tokens = _tokenize(text, dialect)
    except TokenError:
        raise CannotSplit(f"a string, name or comment in it does not end as {dialect} wants it") from None
    return [_statement(text, group) for group in _groups(tokens)]


def _tokenize(text: str, dialect: Dialect) -> list[Any]:
    tokenizer, rules = _tokenizer(dialect)
    return tokenizer(dialect=rules).tokenize(text)


@cache
def _tokenizer(dialect: Dialect) -> tuple[Any, Any]:
    from sqlglot.dialects.dialect import Dialect as Rules

    rules = Rules.get_or_raise(dialect)
    # Of a command that sqlglot does not know, such as CALL, it would make one token with all binds inside.
    return type("Tokenizer", (rules.tokenizer_class,), {"COMMANDS": set()}), rules


def _groups(tokens: list[Any]) -> Iterator[list[Any]]:
    """Yield the tokens of each statement. A routine's body of several statements belongs to the routine."""
    group: list[Any] = []
    depth = 0
    for number, token in enumerate(tokens):
        word = token.text.lower() if token.token_type.name not in ("IDENTIFIER", "STRING") else ""
        if depth:
            depth += (word == "case") - (word == "end")
        elif word == "begin" and _is_routine(group):
            following = tokens[number + 1].text.lower() if number + 1 < len(tokens) else ""
            depth = int(following == "atomic" or _is_routine(group, "trigger"))
        if word == ";" and not depth:
            if group:
                yield group
            group = []
            continue
        group.append(token)
    if group:
        yield group


def _is_routine(group: list[Any], *kinds: str) -> bool:
    words = [token.text.lower() for token in group[:6]]
    return bool(words) and words[0] == "create" and any(word in (kinds or _ROUTINES) for word in words)


def _statement(text: str, group: list[Any]) -> Statement:
    start, end = group[0].start, group[-1].end + 1
    binds = []
    for colon, name in pairwise(group):
        # `x::int` and `a := 1` are tokens of their own; `a[1:n]` is a slice, as is anything glued to what precedes.
        if colon.text != ":" or name.start != colon.end + 1 or _glued(text, colon.start):
            continue
        found = NAME.match(text, name.start)
        if found is not None:
            binds.append(Bind(found[0], colon.start - start, found.end() - start))
    return Statement(text[start:end], tuple(binds))


def _glued(text: str, at: int) -> bool:
    return at > 0 and (text[at - 1].isalnum() or text[at - 1] in "_:\\")
