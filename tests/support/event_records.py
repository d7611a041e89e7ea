"""Events and what belongs to them, as rows: the interesting value visible in the test, the rest from here."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

from django.utils import timezone

from orchestrator.models import Job, Tenant
from tests.support import rules as written
from tests.support.records import default_tenant, new_job
from triggers.models import DeadLetter, Event, EventSource, Firing, Listener, Replay, TriggerRule
from triggers.services.rules import create_rule

numbers = itertools.count(1)


def new_rule(*, tenant: Tenant | None = None, **fields: Any) -> TriggerRule:
    """Make a rule that starts the job `sync` on orders of more than 1000."""
    tenant = tenant or default_tenant()
    if not Job.objects.filter(tenant=tenant, name="sync").exists():
        new_job("sync", tenant=tenant)
    fields = {"ruleId": f"rule-{next(numbers)}", "condition": "payload.amount > 1000", **fields}
    return create_rule(tenant=tenant, spec=written.spec(**fields), by="ada")


def new_source(**more: Any) -> EventSource:
    fields = {"slug": f"source-{next(numbers)}", "kind": "kafka", "config": {"topics": ["a"]}, "id_policy": "transport"}
    return EventSource.objects.create(**{"tenant": default_tenant(), **fields, **more})


def new_event(**more: Any) -> Event:
    number, now = next(numbers), timezone.now()
    fields: dict[str, Any] = {
        "tenant": default_tenant(), "received_at": now, "event_time": now, "source": "shop", "channel": "api",
        "message_id": f"msg-{number}", "event_type": "order.created", "payload": {"amount": 1500}, "state": "matched",
    }  # fmt: skip
    return Event.objects.create(**{**fields, **more})


def new_firing(rule: TriggerRule, event: Event, outcome: str = "fired", **more: Any) -> Firing:
    return Firing.objects.create(
        tenant_id=rule.tenant_id, rule_id=rule.pk, rule_version=1, event_id=event.pk, outcome=outcome,
        created_at=timezone.now(), **more,
    )  # fmt: skip


def new_letter(raw: bytes = b"{", **more: Any) -> DeadLetter:
    now = timezone.now()
    fields: dict[str, Any] = {
        "tenant": default_tenant(), "identity": UUID(int=next(numbers)), "channel": "api", "reason": "malformed",
        "error": "not JSON", "raw": raw, "first_seen": now, "last_seen": now,
    }  # fmt: skip
    return DeadLetter.objects.create(**{**fields, **more})


def new_replay(event: Event, **more: Any) -> Replay:
    fields: dict[str, Any] = {
        "tenant_id": event.tenant_id, "by": "ada", "idempotency_key": f"{next(numbers)}", "fingerprint": "",
        "created_at": timezone.now(), "selection": {"events": [event.pk]},
    }  # fmt: skip
    return Replay.objects.create(**{**fields, **more})


def new_listener(source: EventSource | None = None, **more: Any) -> Listener:
    now = timezone.now()
    fields: dict[str, Any] = {
        "instance": f"host:{next(numbers)}", "kind": source.kind if source else "timers", "last_loop_at": now,
        "started_at": now,
    }  # fmt: skip
    return Listener.objects.create(**{"source": source, **fields, **more})
