"""Conditions: CEL expressions that are true, false, or could not be evaluated. The last is never folded into false."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from cel_expr_python import cel

from orchestrator.expressions.environment import Environment, dependency_environment
from orchestrator.expressions.problems import ExpressionProblem, InvalidExpression, from_compiler, plain_reason

#: An expression is a condition, not a program.
SOURCE_BYTES = 4096
#: The library dies with SIGSEGV on data nested some ten thousand levels deep; results may nest 8,000 in 16 KiB.
DATA_DEPTH = 256


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """The condition has no value, and why: a missing key, a wrong type, a limit."""

    reason: str
    #: It was stopped for what it costs: too many steps, too much memory.
    over_budget: bool = field(default=False, compare=False)


Outcome = Literal[True, False] | NotEvaluated


class Condition:
    """A compiled condition. Immutable and shared between threads."""

    def __init__(
        self, source: str, environment: Environment, program: cel.Expression, fields: tuple[str, ...] = ()
    ) -> None:
        self.source = source
        self._environment = environment
        self.program = program
        #: Fields of the environment's maps that `evaluate` takes by their dotted names, such as `results.count`.
        self._fields = tuple((name, *name.split(".", 1)) for name in fields)

    def evaluate(self, values: Mapping[str, Any]) -> Outcome:
        """Return True, False or NotEvaluated; never raises.

        `values` has the condition's variables by name, `results.count` too; one that is left out is null, a map that
        is left out is empty.
        """
        if too_deep(values):
            return NotEvaluated(f"the data is nested deeper than {DATA_DEPTH} levels")
        known: dict[str, Any] = {name: values.get(name) for name in self._environment.values}
        for name in self._environment.maps:
            value = values.get(name)
            known[name] = {} if value is None else value
        for name, root, key in self._fields:
            known[root] = {**known[root], key: values.get(name)}
        try:
            return _truth(self.program.eval(data=known))
        except Exception as error:
            return _without_value(error)

    def evaluate_on(self, facts: cel.Activation) -> Outcome:
        """Return True, False or NotEvaluated for the environment's `facts`; never raises."""
        try:
            return _truth(self.program.eval(facts))
        except Exception as error:
            return _without_value(error)


class Quantity:
    """A compiled expression whose value may be of any type, such as the key of a group. Immutable and shared."""

    def __init__(self, source: str, program: cel.Expression) -> None:
        self.source = source
        self.program = program

    def evaluate_on(self, facts: cel.Activation) -> Any:
        """Return the value as Python has it, or NotEvaluated; never raises."""
        try:
            value = self.program.eval(facts)
            if value.type().name() == "ERROR":
                return NotEvaluated(plain_reason(str(value.value())))
            return value.plain_value()
        except Exception as error:
            return _without_value(error)


def compile_condition(source: str, environment: Environment) -> Condition:
    """Compile `source`; raises InvalidExpression if it is too long, does not compile, or cannot be boolean."""
    program = _compile(source, environment)
    kind = program.return_type().name()
    if kind not in ("BOOL", "DYN"):
        raise InvalidExpression((ExpressionProblem(f"is of type {kind.lower()}, not a boolean"),))
    return Condition(source, environment, program)


def compile_quantity(source: str, environment: Environment) -> Quantity:
    """Compile `source`, whose value may be of any type; raises InvalidExpression as `compile_condition` does."""
    return Quantity(source, _compile(source, environment))


def _compile(source: str, environment: Environment) -> cel.Expression:
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise InvalidExpression((ExpressionProblem("has characters that are no text"),)) from None
    if size > SOURCE_BYTES:
        raise InvalidExpression((ExpressionProblem(f"has {size} bytes; at most {SOURCE_BYTES} are allowed"),))
    try:
        return environment.cel.compile(source)
    except RuntimeError as error:
        raise InvalidExpression(from_compiler(str(error))) from None


def _truth(value: cel.Value) -> Outcome:
    found = value.value()
    if found is True or found is False:
        return found
    kind = value.type().name()
    if kind == "ERROR":
        return NotEvaluated(plain_reason(str(found)))
    return NotEvaluated(f"the value is of type {kind.lower()}, not a boolean")


def _without_value(error: Exception) -> NotEvaluated:
    # The library raises RuntimeError for its budgets and TypeError or UnicodeError for values that are no JSON data;
    # whatever it is, the expression has no value, and that is an outcome.
    if isinstance(error, MemoryError):
        return NotEvaluated("the expression needs too much memory", over_budget=True)
    words = str(error)
    return NotEvaluated(plain_reason(words), over_budget=_BUDGET.search(words) is not None)


_BUDGET = re.compile(r"budget exceeded|limit exceeded|too many iterations|RESOURCE_EXHAUSTED", re.IGNORECASE)


@lru_cache(maxsize=4096)
def dependency_condition(source: str, upstream: str) -> Condition:
    """Return the compiled `when` of a dependency on `upstream`, from a bounded cache.

    Evaluate it over `params`, `event` and `results.<upstream>`.
    """
    environment = dependency_environment()
    return Condition(source, environment, _dependency_program(source), (f"results.{upstream}",))


@lru_cache(maxsize=4096)
def _dependency_program(source: str) -> cel.Expression:
    # Many dependencies have the same condition; only the name of their upstream differs.
    return compile_condition(source, dependency_environment()).program


def too_deep(value: Any) -> bool:
    """Whether `value` nests deeper than DATA_DEPTH; walks by level, so it needs no stack of its own."""
    level = [value]
    for _ in range(DATA_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [inner for inner in item.values() if isinstance(inner, (Mapping, list, tuple))]
            elif isinstance(item, (list, tuple)):
                below += [inner for inner in item if isinstance(inner, (Mapping, list, tuple))]
        if not below:
            return False
        level = below
    return True


_TOKEN = re.compile(
    r"""
      (?P<comment>//[^\n]*)
    | (?P<string>[rRbB]{0,2}(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>\d[\w.]*)
    | (?P<mark>[^\s])
    """,
    re.VERBOSE | re.DOTALL,
)


def fields_of(source: str, root: str) -> list[str]:
    """Return the fields of the variable `root` that an expression names: `params.region`, `params["region"]`.

    Reads tokens, not the syntax tree, which the library does not give out; a variable of the same name inside a
    macro (`xs.all(params, …)`) counts too.
    """
    tokens = [(match.lastgroup, match.group()) for match in _TOKEN.finditer(source) if match.lastgroup != "comment"]
    words = [word for _, word in tokens]
    fields: list[str] = []
    for index, token in enumerate(tokens):
        if token != ("name", root) or _is_field(tokens, index):
            continue
        rest = words[index + 1 : index + 5]
        if rest[:1] == ["."]:
            name = rest[2:3] if rest[1:2] == ["?"] else rest[1:2]
            fields += name
        elif rest[:1] == ["["]:
            key = rest[2:3] if rest[1:2] == ["?"] else rest[1:2]
            if key and key[0][0] in "\"'" and "\\" not in key[0]:
                fields.append(key[0].strip("\"'"))
    return fields


def _is_field(tokens: list[tuple[str | None, str]], index: int) -> bool:
    """Whether the name at `index` is selected from something, as in `params.results`; `.results` alone is not."""
    before = index - 1
    if before >= 1 and tokens[before][1] == "?" and tokens[before - 1][1] == ".":
        before -= 1
    if before < 1 or tokens[before][1] != ".":
        return False
    kind, word = tokens[before - 1]
    return word in (")", "]", "}") or (kind in ("name", "string", "number") and word != "in")
