"""A batch on its way: the source as ingest sees it, what became of its messages, what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from triggers.envelope import Envelope, Policy, Problem, Received
from triggers.models import EventSource

if TYPE_CHECKING:
    from triggers.rules.decide import EvaluationError, Fires
    from triggers.rules.rule import CompiledRule

#: Where a message that starts a job by name may come in, unless the source says otherwise.
TRIGGER_CHANNELS: Final = ("schedule-tasks", "schedule.main.queue")
LARGEST_MESSAGE: Final = 1 << 20


class Infrastructure(Exception):
    """The database would not take a batch for a reason that is not the batch's: hold it, and write the same again."""


@dataclass(frozen=True, slots=True)
class SourceView:
    """What ingest needs of an EventSource. Immutable: a listener starts anew when its source changes."""

    #: None: the built-in source `api`.
    id: int | None
    tenant_id: int
    slug: str
    kind: str
    policy: Policy
    #: CEL over the event that gives the slug of the tenant it belongs to; None: all belong to `tenant_id`.
    tenant_mapping: str | None = None
    #: The tenants that the mapping may name, by slug.
    tenants: Mapping[str, int] = field(default_factory=dict)
    #: A broker's message older than this is stored `expired`: its key may have been forgotten.
    key_retention: timedelta | None = None
    #: Channels on which a body with `jobName` is a trigger call.
    trigger_calls: bool | None = None

    @classmethod
    def of(cls, source: EventSource) -> Self:
        """Read a stored source; one query for the tenants it may name, if it names any."""
        from triggers.ingest.retention import key_retention

        config = source.config
        mapping = config.get("tenant") or None
        tenants: dict[str, int] = {}
        if mapping:
            from orchestrator.models import Tenant

            tenants = dict(Tenant.objects.filter(slug__in=config.get("tenants", ())).values_list("slug", "id"))
        return cls(
            id=source.pk,
            tenant_id=source.tenant_id,
            slug=source.slug,
            kind=source.kind,
            policy=Policy(
                slug=source.slug,
                id_policy=source.id_policy,
                max_bytes=int(config.get("max_bytes") or LARGEST_MESSAGE),
                allowed_sources=frozenset(config.get("allowed_sources") or ()),
            ),
            tenant_mapping=mapping,
            tenants=tenants,
            key_retention=key_retention() if source.kind == "kafka" else None,
            trigger_calls=config.get("trigger_calls"),
        )

    def takes_calls(self, channel: str) -> bool:
        """Whether a body with `jobName` on this channel is a trigger call."""
        if self.trigger_calls is not None:
            return self.trigger_calls
        return channel.partition(":")[2] in TRIGGER_CHANNELS


class Item:
    """One event, trigger call or unusable message of a batch: decoded and matched, nothing of it written yet.

    Without a dataclass's comforts: made for every message, ten thousand a second.
    """

    __slots__ = (
        "call",
        "chain",
        "depth",
        "envelope",
        "event_id",
        "expired",
        "fires",
        "key",
        "not_fired",
        "order",
        "payload",
        "problem",
        "received",
        "root_event_id",
        "row",
        "sha",
        "tenant_id",
    )  # fmt: skip

    def __init__(self, received: Received, tenant_id: int, order: int) -> None:
        self.received = received
        self.tenant_id = tenant_id
        #: Its place in the batch as it was handed over.
        self.order = order
        #: Why it is a dead letter; None: it is an event or a call.
        self.problem: Problem | None = None
        self.envelope: Envelope | None = None
        #: Of the dedupe key, 16 bytes; of type and payload, 32 bytes.
        self.key: bytes = b""
        self.sha: bytes = b""
        #: The payload as canonical JSON.
        self.payload: bytes = b""
        self.expired = False
        self.root_event_id: int | None = None
        self.depth = 0
        self.chain: tuple[int, ...] = ()
        #: Rules whose condition held, or could not be evaluated.
        self.fires: list[tuple[CompiledRule, Fires | EvaluationError]] = []
        #: Ids of the rule versions whose condition was false.
        self.not_fired: list[int] = []
        #: The body of a trigger call.
        self.call: Mapping[str, Any] | None = None
        self.event_id = 0
        #: What of its event's row is known before it is written, in the words of the database; empty: not made yet.
        self.row: Any = ""


@dataclass(slots=True)
class Prepared:
    """A batch between prepare and write: may be written again after Infrastructure, and cut before it is."""

    items: list[Item]
    #: Messages that were handed over.
    messages: int = 0
    #: Messages that mean nothing, such as a record without a value, and those that came again, by channel.
    ignored: Counter[str] = field(default_factory=Counter)
    redelivered: Counter[str] = field(default_factory=Counter)
    #: Runs of what was durable already when the rest could not be written: for the launch that comes in the end.
    launchable: list[int] = field(default_factory=list)

    def cut(self, keep: Callable[[str], bool]) -> Prepared:
        """Return the batch without the messages of parts that are no longer ours."""
        return Prepared(
            [item for item in self.items if keep(item.received.part)], self.messages, self.ignored, self.redelivered
        )

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item. Of a duplicate, the id is that of the event that was first."""

    #: matched, no_match, expired, trigger_call, duplicate or dead_letter.
    outcome: str
    event_id: int | None = None
    #: The reason of a dead letter.
    reason: str = ""
    #: The run of a trigger call.
    run_id: int | None = None


@dataclass(slots=True)
class Written:
    """A batch that is durable: its transport may be told, then its runs may be launched."""

    #: New runs, ascending: what to offer to the launcher.
    run_ids: list[int] = field(default_factory=list)
    #: Items by outcome, and messages that were ignored.
    counts: Counter[str] = field(default_factory=Counter)
    #: By the item's `order`; a message that gave several events has one for each.
    results: dict[int, list[Result]] = field(default_factory=dict)
