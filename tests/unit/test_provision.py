"""Which servers a run of tests is given."""

from __future__ import annotations

from tests.support.provision import needed_by


def test_kafka_starts_only_where_a_chosen_file_asks_for_it() -> None:
    assert "Kafka" in needed_by([])
    assert "Kafka" in needed_by(["tests/brokers/test_kafka.py::test_messages", "-q"])
    assert "Kafka" not in needed_by(["tests/unit", "-k", "kafka"])
    assert "Chromium" in needed_by(["tests/browser"])
    assert "Chromium" not in needed_by(["tests/database/test_api.py"])
    assert {"PostgreSQL", "Redis", "RabbitMQ"} <= needed_by(["tests/unit"])
    assert "docker-compose" in needed_by(["tests/deploy"])
    assert "docker-compose" not in needed_by(["tests/unit"])
