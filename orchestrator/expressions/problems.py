"""What can be wrong with an expression or a placeholder, in words a user can act on, with its position."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: `ERROR: <input>:2:8: undeclared reference to 'x'`; the drawing of the position below it is dropped.
_COMPILER_LINE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_STATUS = re.compile(r"^[A-Z_]+: | \[[A-Z_]+\]$")


@dataclass(frozen=True, slots=True)
class ExpressionProblem:
    """One problem of an expression; line and column count from 1 inside the expression, None if unknown."""

    message: str
    line: int | None = None
    column: int | None = None
    #: The name that is not declared, such as `results.count.n`, when that is the problem.
    undeclared: str | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.message
        return f"{self.message} (line {self.line}, column {self.column} of the expression)"


class InvalidExpression(Exception):
    """The expression does not compile; `problems` says why."""

    def __init__(self, problems: tuple[ExpressionProblem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))


class InvalidPlaceholder(ValueError):
    """The text between `${` and `}` is no placeholder; `placeholder` is that text, `column` counts from 0."""

    def __init__(self, placeholder: str, message: str, column: int) -> None:
        self.placeholder = placeholder
        self.column = column
        super().__init__(message)


class MissingReference(LookupError):
    """A placeholder names a value that is not there and has no default; `reference` is its name."""

    def __init__(self, reference: str, reason: str = "there is no such value") -> None:
        self.reference = reference
        self.reason = reason
        #: The path to its text, where whoever renders knows it.
        self.where = ""
        super().__init__(f"${{{reference}}}: {reason}")


def from_compiler(text: str) -> tuple[ExpressionProblem, ...]:
    """Translate the message of the CEL compiler, which may name several problems."""
    problems: list[ExpressionProblem] = []
    for line, column, message in _COMPILER_LINE.findall(text):
        message = _STATUS.sub("", message)
        undeclared = _UNDECLARED.search(message)
        name = undeclared[1] if undeclared else None
        problem = ExpressionProblem(
            message=f"{name} is not known here" if name else _plain_syntax(message),
            line=int(line) if int(line) > 0 else None,
            column=int(column) if int(line) > 0 else None,
            undeclared=name,
        )
        if problem not in problems:
            problems.append(problem)
    if not problems:
        problems.append(ExpressionProblem(plain_reason(text)))
    return tuple(problems)


def _plain_syntax(message: str) -> str:
    message = message.removeprefix("Syntax error: ")
    message = message.partition(" expecting ")[0].replace("mismatched input '<EOF>'", "unexpected end")
    return message.replace("mismatched input", "unexpected").replace("extraneous input", "unexpected")


def plain_reason(text: str) -> str:
    """Return the library's message without its status words."""
    while (shorter := _STATUS.sub("", text.strip())) != text.strip():
        text = shorter
    return text.strip() or "failed without a message"
