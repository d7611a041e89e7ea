from __future__ import annotations

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    name = "workers"

    def ready(self) -> None:
        from workers import celery_hooks, lanes  # noqa: F401  connect to Celery's signals
        from workers.executors.registry import register_task_types

        register_task_types()
