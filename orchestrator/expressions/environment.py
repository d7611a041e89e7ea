"""CEL environments: which variables and functions an expression may use, by the place where it stands.

The language is Google's CEL through `cel-expr-python`, a young library: it is imported here and in `program`
alone, and `tests/unit/expressions/test_conformance.py` states what we rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings

#: Words that CEL refuses as names after a dot, so a task or parameter called so could not be referred to.
KEYWORDS = frozenset({"in", "true", "false", "null"})


class Environment:
    """The variables that an expression may name.

    `maps` are JSON objects, `values` any JSON value, `texts` strings, `moments` aware datetimes, `text_maps` objects
    whose values are strings. A dotted value such as `results.count` makes that name known and leaves `results.other`
    unknown, which is how an unknown task is found at compile time.
    """

    def __init__(
        self,
        *,
        maps: Iterable[str] = (),
        values: Iterable[str] = (),
        texts: Iterable[str] = (),
        moments: Iterable[str] = (),
        text_maps: Iterable[str] = (),
    ) -> None:
        self.maps = tuple(maps)
        self.values = tuple(values)
        self.typed = (*texts, *moments, *text_maps)
        self.cel = cel.NewEnv(
            variables={
                **dict.fromkeys(self.maps, _OBJECT),
                **dict.fromkeys(self.values, cel.Type.DYN),
                **dict.fromkeys(texts, cel.Type.STRING),
                **dict.fromkeys(moments, cel.Type.TIMESTAMP),
                **dict.fromkeys(text_maps, _TEXTS),
            },
            extensions=_EXTENSIONS,
        )

    @property
    def variables(self) -> tuple[str, ...]:
        return self.maps + self.values + self.typed

    def facts(self, values: Mapping[str, Any]) -> cel.Activation:
        """Return the values of all variables, shared by every expression that is evaluated on them.

        Converted when an expression first reads them. The caller has checked that they are not `too_deep`.
        """
        return self.cel.Activation(data=values)


@lru_cache(maxsize=1)
def dependency_environment() -> Environment:
    """Return what the `when` of a dependency may read: params, event, and results by task.

    One environment for all: the first compilation in a new one costs a millisecond, a further one 40 µs. That a
    condition reads no other result than its own upstream's is checked when the definition is.
    """
    return Environment(maps=("params", "event", "results"))


@lru_cache(maxsize=1)
def rule_environment() -> Environment:
    """Return what the expressions of a trigger rule may read: the event, by its parts and as a whole, and `now`."""
    return Environment(
        maps=("event", "metadata"),
        values=("payload",),
        texts=("eventType", "source", "destination", "priority", "channel"),
        moments=("timestamp", "now"),
        text_maps=("headers",),
    )


def _num(value: Any) -> float:
    return float(value)


# The result is declared dynamic: as a double it could not be compared with an integer literal.
# Null has no overload (the library calls it a collision); num(null) is an error like any other missing number.
_NUM = cel.FunctionDecl(
    "num",
    [
        cel.Overload(id=f"num_{kind.name().lower()}", return_type=cel.Type.DYN, parameters=[kind], impl=_num)
        for kind in (cel.Type.INT, cel.Type.DOUBLE, cel.Type.STRING)
    ],
)
_OBJECT = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_TEXTS = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
_EXTENSIONS = [
    ext_strings.ExtStrings(),
    ext_math.ExtMath(),
    ext_optional.ExtOptional(),
    cel.CelExtension("upbeat", [_NUM]),
]
