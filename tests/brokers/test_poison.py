"""Which message kills its reader: children that really die, and marks that outlive a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.models import Tenant
from tests.support.deadly_words import DEADLY, ENDLESS, GREEDY
from tests.support.listeners import environment
from triggers.envelope import Received
from triggers.listeners import poison
from triggers.listeners.poison import Marks, ProofChild, ProofUnavailable
from triggers.models import EventSource, UncleanExit

pytestmark = [pytest.mark.kill, pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def source() -> EventSource:
    tenant = Tenant.objects.get(slug="default")
    return EventSource.objects.create(
        tenant=tenant, slug="orders", kind="rabbitmq", config={"queues": ["q"]}, id_policy="require"
    )


@pytest.fixture
def child(source: EventSource, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProofChild]:
    """A child that messages can kill."""
    for name, value in environment(DJANGO_SETTINGS_MODULE="tests.support.deadly").items():
        monkeypatch.setenv(name, value)
    child = ProofChild(source.pk)
    yield child
    child.close()


def message(text: bytes = b"") -> Received:
    body = b'{"messageId": "m-1", "eventType": "order.created", "payload": {"text": "' + text + b'"}}'
    return Received("rabbitmq:q", body, part="q")


def test_a_message_that_kills_two_children_is_poison_and_its_neighbours_are_not(child: ProofChild) -> None:
    assert child.prove(message(b"healthy")) is None
    first = child.pid

    why = child.prove(message(DEADLY))

    assert why is not None
    assert "SIGSEGV" in why
    assert child.prove(message(b"healthy too")) is None
    assert child.prove(Received("rabbitmq:q", b"\xff no json at all", part="q")) is None
    assert child.pid != first


def test_a_message_that_never_ends_is_poison_by_the_processor_time_it_takes(child: ProofChild) -> None:
    assert child.prove(message()) is None
    began = time.monotonic()

    why = child.prove(message(ENDLESS))

    assert why is not None
    assert "more than 2 s" in why
    assert time.monotonic() - began > 4


def test_a_message_that_takes_all_memory_is_poison(child: ProofChild) -> None:
    why = child.prove(message(GREEDY))

    assert why is not None
    assert "more than 512 MiB" in why


def test_a_child_that_was_killed_from_outside_says_nothing_about_its_message(child: ProofChild) -> None:
    assert child.prove(message()) is None

    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        assert child.pid is not None
        os.kill(child.pid, number)
        assert child.prove(message(b"healthy")) is None


def test_a_child_that_is_killed_again_and_again_condemns_nothing(child: ProofChild) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.01):
            if child.pid is not None:
                try:
                    os.kill(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(ProofUnavailable):
            child.prove(message(b"healthy"))
    finally:
        stop.set()
        killer.join()
    assert child.prove(message(b"healthy")) is None


def test_a_child_without_a_database_is_no_evidence(child: ProofChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPBEAT_TEST_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/nothing")

    with pytest.raises(ProofUnavailable):
        child.prove(message(b"healthy"))


def test_a_mark_that_a_dead_reader_left_makes_its_part_suspicious_until_it_is_proven(source: EventSource) -> None:
    _mark_in_a_process_that_dies(source)
    marks = Marks(source.pk)

    assert marks.begin(["q", "other"]) == {"q"}
    assert set(marks.suspicious) == {"q"}
    marks.proven("q")
    assert not marks.suspicious
    marks.end()

    assert not UncleanExit.objects.exists()


def test_a_reader_that_dies_while_it_proves_leaves_the_part_suspicious(source: EventSource) -> None:
    _mark_in_a_process_that_dies(source)
    Marks(source.pk).begin(["q"])
    UncleanExit.objects.filter(instance=poison.this_process()).update(instance="elsewhere:1:2")

    assert Marks(source.pk).begin(["q"]) == {"q"}
    assert UncleanExit.objects.count() == 3


def test_the_mark_of_a_living_reader_makes_nothing_suspicious(source: EventSource) -> None:
    other = Marks(source.pk)
    other.begin(["q"])

    assert Marks(source.pk).begin(["q"]) == set()


def test_a_minute_of_progress_removes_the_mark_and_less_does_not(source: EventSource) -> None:
    now = [0.0]
    marks = Marks(source.pk, clock=lambda: now[0])
    marks.begin(["q"])

    now[0] = 59
    marks.progress()
    assert UncleanExit.objects.exists()

    now[0] = 61
    marks.progress()
    assert not UncleanExit.objects.exists()


def _mark_in_a_process_that_dies(source: EventSource) -> None:
    program = (
        "import django, os, signal; django.setup(); from triggers.listeners.poison import Marks; "
        f"Marks({source.pk}).begin(['q']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment()}, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
