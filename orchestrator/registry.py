"""Registries that siblings fill in `AppConfig.ready()`: the orchestrator knows names and schemas, not classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.dag.kinds import Reader

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from orchestrator.models import Tenant

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with a field of a task: where below the task, what, which value, and what was expected."""

    path: tuple[str | int, ...]
    message: str
    expected: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: ok, or what is wrong and what to do about it."""

    name: str
    ok: bool
    detail: str = ""
    hint: str = ""
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceStanding:
    """How one enabled event source stands, as those who listen to it last said."""

    id: int
    name: str
    kind: str
    #: `ok`, `paused`, `degraded`, `failing`, or `silent`: nobody listens.
    state: str
    #: Messages not yet read; None where there is no such number.
    lag: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EventStanding:
    """How events stand: sources, those in trouble first, and messages that could not be used."""

    sources: tuple[SourceStanding, ...]
    #: Enabled sources that are not listed.
    more: int
    #: Counted up to a bound that the overview knows.
    dead_letters: int


@dataclass(frozen=True, slots=True)
class TaskType:
    """A task type that a definition may name."""

    name: str
    label: str
    #: JSON schema (an object schema with `additionalProperties: false`) of the fields the type adds to a task.
    schema: Mapping[str, Any]
    #: Fields whose text is fixed: a placeholder of ours in them is a problem (`command` of a shell task).
    fixed_text: tuple[str, ...] = field(default=())
    #: The fields through which values reach a fixed text, for the problem's words.
    values_in: tuple[str, ...] = ("env", "args")
    #: Rules that no schema can say, over the fields as they are written: pure, and quiet about what the schema refuses.
    check: Callable[[Mapping[str, Any]], Iterable[FieldProblem]] | None = None
    #: Seconds that a task of this type may take unless it says so itself, in place of the definition's defaults.
    default_timeout: float | None = None
    #: Seconds that the fields alone say it takes, None if they do not: its time limit must be longer. Pure.
    takes: Callable[[Mapping[str, Any]], float | None] | None = None
    #: An attempt whose worker vanished can be found again by its key and continued.
    adoptable: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What goes with a definition that is applied: its text, who applies it, and what they say to it."""

    source: str
    by: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class AppliedDefinition:
    """What applying one definition did: `created`, `updated` or `unchanged`."""

    kind: str
    name: str
    outcome: str
    #: The number of a job's version.
    version: int | None = None
    #: Called once, after the transaction that applied all definitions has been committed.
    afterwards: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class DefinitionKind:
    """A kind of definition that validate, plan, apply and export know. `Job` is read by `dag.parse` itself."""

    name: str
    read: Reader | None
    #: What is said of a valid one, such as `3 tasks`.
    summary: Callable[[Any], str]
    #: (tenant, spec) → what applying would change, one sentence each.
    plan: Callable[[Tenant, Any], list[str]]
    #: (tenant, spec, written), inside the caller's transaction. Safe to call twice.
    apply: Callable[[Tenant, Any, Written], AppliedDefinition]
    #: (tenant, name) → the definition as plain data; raises a child of NotFound.
    export: Callable[[Tenant, str], Mapping[str, Any]]
    #: Field of a document that lists definitions of this kind, in place of `kind:`.
    list_field: str = ""
    #: What people call one; empty: its name.
    word: str = ""


class Registry(Generic[Entry]):
    """Named entries, each registered once."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> None:
        """Add an entry; the same entry twice is one, another under the same name raises ValueError."""
        if self._entries.setdefault(name, entry) != entry:
            raise ValueError(f"{self._kind} {name!r} is registered twice")

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def as_mapping(self) -> Mapping[str, Entry]:
        return dict(self._entries)


@dataclass(frozen=True, slots=True)
class PathLimit:
    """Paths whose calls may have larger bodies than others, as large as the one they are for says, and must be quick."""

    prefix: str
    #: path → bytes at most; asked when a body turns out to be larger than usual, on a thread that may use the database.
    most: Callable[[str], int]
    #: Seconds after which a call whose body has arrived is answered 503, whatever it still waits for; None: never. What
    #: it does is not undone: it must be safe to repeat.
    answer_within: float | None = None


task_types: Registry[TaskType] = Registry("task type")
#: What `/metrics` reads from the ledger at each scrape, beside the orchestrator's own. Made when it is asked for: only
#: few processes load the library.
collectors: Registry[Callable[[], Collector]] = Registry("collector")
#: What `doctor` asks of the siblings, once it knows that the database answers.
diagnoses: Registry[Callable[[], list[Finding]]] = Registry("diagnosis")
#: What the overview asks of events: (ids of the tenants, None for every one; sources to list) → how they stand. In a
#: fixed number of queries, none of which counts a table.
event_standings: Registry[Callable[[frozenset[int] | None, int], EventStanding]] = Registry("standing of events")
path_limits: Registry[PathLimit] = Registry("limit of paths")
definition_kinds: Registry[DefinitionKind] = Registry("kind of definition")
#: What else names stored secrets: (tenant's id, name) → such as `the event source orders`.
secret_users: Registry[Callable[[int, str], list[str]]] = Registry("user of secrets")
