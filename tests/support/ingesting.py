"""Messages given to the pipeline as a listener does, without a broker; rules and jobs stored as services store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.utils import timezone

from orchestrator.models import Job, Tenant
from tests.support.factories import default_tenant, job_of
from tests.support.rules import spec
from triggers.envelope import Received
from triggers.ingest.batch import Prepared, SourceView, Written
from triggers.ingest.pipeline import Pipeline
from triggers.models import EventSource, Firing, TriggerRule
from triggers.rules_cache import RuleCache, bump_epoch
from triggers.services.rules import create_rule

TOPIC = "business-events"


def source_of(slug: str = "shop", *, kind: str = "kafka", owner: Tenant | None = None, **config: Any) -> EventSource:
    """A stored source; its config as given, unchecked."""
    policy = config.pop("id_policy", "transport" if kind == "kafka" else "require")
    return EventSource.objects.create(
        tenant=owner or default_tenant(), slug=slug, kind=kind, config=config, id_policy=policy
    )


def rule_of(tenant: Tenant | None = None, **fields: Any) -> TriggerRule:
    """A stored rule on `order.created` that starts the job `sync`, which is made if there is none."""
    tenant = tenant or default_tenant()
    name = spec(**fields).job_name
    if name is not None and not Job.objects.filter(tenant=tenant, name=name).exists():
        job_of("only", name=name)
    return create_rule(tenant=tenant, spec=spec(**fields), by="ada")


def body(number: int | str = 1, payload: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    """An order with the id `msg-<number>`; a field given as None is left out."""
    given = {
        "messageId": f"msg-{number}",
        "eventType": "order.created",
        "timestamp": "2026-11-21T10:30:00Z",
        "source": "order-service",
        "payload": {"orderId": f"o-{number}", "amount": 1500} if payload is None else payload,
        **fields,
    }
    return orjson.dumps({name: value for name, value in given.items() if value is not None})


def message(
    content: bytes | None, off: int | None = None, *, key: str = "", channel: str = f"kafka:{TOPIC}", partition: int = 0,
    sent_at: datetime | None = None, **fields: Any,
) -> Received:  # fmt: skip
    """A message at its place: with an offset as Kafka gives it, without one as a queue."""
    if off is None:
        return Received(channel, content, key=key, sent_at=sent_at, **fields)
    place = f"shop/{TOPIC}/{partition}/{off}"
    return Received(
        channel, content, part=f"{TOPIC}/{partition}", off=off, key=key, message_id=place, sent_at=sent_at, **fields
    )


def orders(count: int, *, first: int = 0, key: str = "", **fields: Any) -> list[Received]:
    """As many orders, one after the other in one partition."""
    return [message(body(number, **fields), number, key=key) for number in range(first, first + count)]


def pipeline_of(source: EventSource | SourceView | None = None) -> Pipeline:
    """A listener's pipeline, with a cache of rules of its own."""
    if source is None:
        source = EventSource.objects.filter(slug="shop").first() or source_of()
    view = source if isinstance(source, SourceView) else SourceView.of(source)
    bump_epoch()
    return Pipeline(view, cache=RuleCache(looks_every=0.0))


def take(messages: Sequence[Received], pipeline: Pipeline | None = None) -> Written:
    """Decode, match and write a batch."""
    pipeline = pipeline or pipeline_of()
    return pipeline.write(prepared(messages, pipeline))


def prepared(messages: Sequence[Received], pipeline: Pipeline) -> Prepared:
    return pipeline.prepare(messages, timezone.now())


def make_due(*, seconds: float = 60.0) -> int:
    """Let what is held be due since so many seconds, in the order in which it would have been; returns how many."""
    now = timezone.now() - timedelta(seconds=seconds)
    held = Firing.objects.filter(outcome="held", release_at__isnull=False).order_by("-release_at", "-pk")
    for position, firing in enumerate(held):
        Firing.objects.filter(pk=firing.pk).update(release_at=now - timedelta(milliseconds=position))
    return len(held)
