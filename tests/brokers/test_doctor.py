"""What `doctor` says of a broker that answers."""

from __future__ import annotations

import re
from typing import Any

from django.test import override_settings

from orchestrator.management.commands import doctor


def test_doctor_names_the_brokers_version(broker_url: str, settings: Any) -> None:
    with override_settings(CELERY={**settings.CELERY, "broker_url": broker_url}):
        finding = doctor._versions()

    assert finding.ok
    assert re.match(r"(Redis|RabbitMQ) \d+\.\d+", finding.detail)


def test_doctor_says_what_an_old_rabbitmq_does_to_long_tasks(
    rabbitmq_url: str, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(doctor, "LEAST_RABBITMQ", (99, 0))
    with override_settings(CELERY={**settings.CELERY, "broker_url": rabbitmq_url}):
        finding = doctor._versions()

    assert "older than 99.0" in finding.detail
    assert "half an hour" in finding.detail
