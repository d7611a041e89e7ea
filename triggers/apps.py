from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from orchestrator.registry import EventStanding, Finding


#: A provider that waits longer gives up, and some switch a slow endpoint off; one that is told to come again does.
WEBHOOK_SECONDS = 5.0


class TriggersConfig(AppConfig):
    name = "triggers"

    def ready(self) -> None:
        from orchestrator import registry
        from triggers.definitions import register_kinds
        from triggers.selectors.sources import users_of_secret
        from triggers.sources import kafka, rabbitmq, webhook
        from triggers.sources.registry import source_kinds

        registry.collectors.register("events", _collector)
        registry.diagnoses.register("events", _diagnose)
        registry.event_standings.register("events", _standing)
        register_kinds()
        registry.secret_users.register("event sources", users_of_secret)
        registry.path_limits.register(
            "webhooks", registry.PathLimit("/api/v1/hooks/", _webhook_limit, answer_within=WEBHOOK_SECONDS)
        )
        source_kinds.register(kafka.KIND.name, kafka.KIND)
        source_kinds.register(rabbitmq.KIND.name, rabbitmq.KIND)
        source_kinds.register(webhook.KIND.name, webhook.KIND)


def _webhook_limit(path: str) -> int:
    from triggers.services.webhooks import body_limit

    return body_limit(path)


def _diagnose() -> list[Finding]:
    from triggers.diagnosis import findings

    return findings()


def _standing(tenants: frozenset[int] | None, named: int) -> EventStanding:
    from triggers.selectors.standing import event_standing

    return event_standing(tenants, named)


def _collector() -> Collector:
    from triggers.collectors import EventCollector

    return EventCollector()
