from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


class TriggersConfig(AppConfig):
    name = "triggers"

    def ready(self) -> None:
        from orchestrator import registry

        registry.collectors.register("events", _collector)


def _collector() -> Collector:
    from triggers.collectors import EventCollector

    return EventCollector()
