"""What validation asks of a task type; the registry's entries have it, and this package knows no registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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
