"""Kinds of definitions beside `kind: Job`: each is a function that reads the document, or records its problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.dag.reading import Value


class NamedSpec(Protocol):
    """What a definition of any kind comes to."""

    @property
    def name(self) -> str: ...


#: Reads the whole document; None once it has recorded a problem.
Reader = Callable[[Value], NamedSpec | None]
