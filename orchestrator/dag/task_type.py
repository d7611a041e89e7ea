"""What validation asks of a task type; the registry's entries have it, and this package knows no registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol


class FieldProblem(Protocol):
    """A problem that a type's own rules found in a task's fields."""

    @property
    def path(self) -> tuple[str | int, ...]: ...

    @property
    def message(self) -> str: ...

    @property
    def expected(self) -> str: ...

    @property
    def value(self) -> Any: ...


class TaskType(Protocol):
    """A task type that a definition may name."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the fields that the type adds to a task."""
        ...

    @property
    def fixed_text(self) -> tuple[str, ...]:
        """Fields whose text is never a template."""
        ...

    @property
    def values_in(self) -> tuple[str, ...]:
        """The fields through which values reach a fixed text."""
        ...

    @property
    def check(self) -> Callable[[Mapping[str, Any]], Iterable[FieldProblem]] | None:
        """Rules that no schema can say, over the fields as they are written."""
        ...

    @property
    def default_timeout(self) -> float | None:
        """Seconds that a task of this type may take unless it says so itself; None: what the definition says."""
        ...

    @property
    def takes(self) -> Callable[[Mapping[str, Any]], float | None] | None:
        """Seconds that the fields alone say it takes."""
        ...
