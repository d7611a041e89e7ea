"""`manage.py run_triggers` with a real RabbitMQ: sources come, change and go while it runs; no message suffers from it."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.models import Tenant
from tests.support.listeners import environment
from tests.support.processes import Process, python
from tests.support.rabbitmq import declare, event, length, publish
from tests.support.waiting import eventually
from triggers.models import Event, EventSource, Listener
from triggers.services.sources import SourceSpec, create_source, replace_source, switch_source

pytestmark = [pytest.mark.kill, pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def triggers(tmp_path: Path) -> Iterator[Process]:
    process = start(tmp_path)
    yield process
    process.stop(within=25)


def start(folder: Path, *arguments: str) -> Process:
    environ = {
        **environment(UPBEAT_PROGRESS_FILE=str(folder / "triggers.beat")),
        "DJANGO_SETTINGS_MODULE": "orchestrator.settings.test",
    }
    return python("triggers", "manage.py", "run_triggers", *arguments, environ=environ, log=folder / "log").start()


def tenant() -> Tenant:
    return Tenant.objects.get(slug="default")


def source_of(*queues: str) -> EventSource:
    spec = SourceSpec("orders", "rabbitmq", {"queues": list(queues)})
    return create_source(tenant=tenant(), spec=spec, by="ada")


def queue_of(url: str) -> str:
    return declare(url, f"orders.{uuid.uuid4().hex[:8]}", delivery_limit=1000)


def read_by(queue: str) -> list[str]:
    """The instances that say they read a queue."""
    return [row.instance for row in Listener.objects.filter(kind="rabbitmq") if queue in row.assigned]


def count() -> int:
    return Event.objects.count()


def test_a_source_is_read_changed_and_left_alone_as_it_is_set(triggers: Process, rabbitmq_url: str) -> None:
    first, second = queue_of(rabbitmq_url), queue_of(rabbitmq_url)
    eventually(lambda: Listener.objects.filter(kind="timers").exists(), within=60, saying="the roles run")

    source = source_of(first)
    publish(rabbitmq_url, first, [event(number) for number in range(20)])
    eventually(lambda: count() == 20, within=30, saying="a new source is read")
    [before] = read_by(first)

    replace_source(tenant=tenant(), spec=SourceSpec("orders", "rabbitmq", {"queues": [first, second]}), by="ada")
    publish(rabbitmq_url, second, [event(number) for number in range(100, 110)])
    eventually(lambda: count() == 30, within=40, saying="its further queue is read")
    assert read_by(second) != [before], "by a process that knows the change"

    switch_source(tenant=tenant(), slug="orders", enabled=False, by="ada")
    eventually(lambda: not Listener.objects.filter(source=source).exists(), within=30, saying="nobody reads it")
    publish(rabbitmq_url, first, [event(number) for number in range(200, 205)])
    assert length(rabbitmq_url, first) == 5

    switch_source(tenant=tenant(), slug="orders", enabled=True, by="ada")
    eventually(lambda: count() == 35, within=40, saying="it is read again")


def test_an_end_in_order_takes_less_than_its_budget_and_a_killed_listener_comes_back(
    triggers: Process, rabbitmq_url: str
) -> None:
    queue = queue_of(rabbitmq_url)
    source_of(queue)
    publish(rabbitmq_url, queue, [event(number) for number in range(200)])
    eventually(lambda: count() == 200, within=60)

    for child in triggers.children():
        child.kill()
    publish(rabbitmq_url, queue, [event(number) for number in range(200, 300)])
    eventually(lambda: count() == 300, within=60, saying="another process reads on")

    everybody = triggers.tree()
    os.kill(triggers.pid, signal.SIGTERM)
    eventually(lambda: not triggers.running, within=20)
    assert triggers.exit_code == 0, triggers.output()[-3000:]
    assert not [one for one in everybody if one.is_running() and one.status() != "zombie"]
    assert length(rabbitmq_url, queue) == 0


def test_one_source_alone_is_read_by_the_process_itself_and_its_change_is_followed(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    first, second = queue_of(rabbitmq_url), queue_of(rabbitmq_url)
    source_of(first)
    publish(rabbitmq_url, first, [event(1)])
    alone = start(tmp_path, "--source", "orders")
    try:
        eventually(lambda: count() == 1, within=60)
        assert alone.children() == []
        replace_source(tenant=tenant(), spec=SourceSpec("orders", "rabbitmq", {"queues": [second]}), by="ada")
        publish(rabbitmq_url, second, [event(2)])
        eventually(lambda: count() == 2, within=30)

        alone.signal(signal.SIGTERM)
        eventually(lambda: not alone.running, within=20)
        assert alone.exit_code == 0, alone.output()[-3000:]
    finally:
        alone.stop()
