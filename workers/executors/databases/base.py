"""What the `sql` executor asks of a database: few steps, and every error as one of five faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from workers.executors.databases.statements import Statement
from workers.executors.databases.values import as_json, as_json_text


class Fault(Enum):
    """What an error of a database means, wherever it happened."""

    WRONG = "wrong"  # the statement, a permission, a constraint: the same again
    TRANSIENT = "transient"  # deadlock, serialization, too many connections: it may work next time
    CANCELED = "canceled"  # the statement was ended on somebody's request
    BROKEN = "broken"  # the connection is gone, and with it the answer


class Trouble(Exception):
    """An error of a database, in its own words."""

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault


class BadBind(Exception):
    """A value that this database cannot be given."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"bind.{name}: its value is not {expected}")


class ResultTooLarge(Exception):
    """The rows that a task asks for are more than a result may be."""


@dataclass(slots=True)
class Rows:
    """The rows of one statement: the first `keep` of them, and how many there were."""

    keep: int
    #: Bytes of JSON that the kept rows may take.
    most_bytes: int
    columns: tuple[str, ...] = ()
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    #: Rows that came back, or None for a statement that returns none.
    returned: int | None = None
    #: Rows that it changed, as far as the database says.
    affected: int | None = None
    _bytes: int = 0

    @property
    def room(self) -> int:
        """How many more rows are kept."""
        return max(0, self.keep - len(self.kept))

    def take(self, rows: Iterable[Sequence[Any]]) -> None:
        """Keep rows, their values as JSON has them. Raises ResultTooLarge."""
        for row in rows:
            values = tuple(as_json(value) for value in row)
            self._bytes += len(as_json_text(values))
            if self._bytes > self.most_bytes:
                raise ResultTooLarge(f"result: its rows are larger than {self.most_bytes} bytes")
            self.kept.append(values)


class Database(Protocol):
    """One connection of one attempt. `cancel` and `abandon` may be called from another thread, at any time."""

    def connect(self, *, name: str, seconds: float, read_only: bool) -> None:
        """Connect within `seconds`; `name` is what the database's administrators see. Raises Trouble."""
        ...

    def begin(self, *, read_only: bool, seconds: float) -> None:
        """Open a transaction; a statement in it ends after `seconds`. Raises Trouble."""
        ...

    def limit(self, seconds: float, *, in_transaction: bool) -> None:
        """Let the next statement take at most `seconds`. Raises Trouble."""
        ...

    def run(self, statement: Statement, values: Mapping[str, Any], rows: Rows) -> None:
        """Run one statement to its end and fill in `rows`, never holding more than is kept. Raises Trouble, BadBind."""
        ...

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def commit(self) -> None:
        """Raises Trouble; with the fault BROKEN nobody knows whether it happened, with any other it did not."""
        ...

    def close(self) -> None:
        """Let go, rolling back what is open. Raises nothing; safe to call twice."""
        ...

    def cancel(self) -> None:
        """Ask the database to end what it is doing for us. Raises nothing."""
        ...

    def abandon(self) -> None:
        """Give up on the answer: whoever waits for it gets Trouble. Raises nothing."""
        ...


#: Opens nothing yet: (URL, what to call with a line that the database says beside its answers).
DatabaseFactory = Callable[[Any, Callable[[str], None]], Database]
